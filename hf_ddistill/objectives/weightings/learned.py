"""A weight that the losses of a training decide."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hf_ddistill.couplings import TrainingStep
from hf_ddistill.kinds import check_most
from hf_ddistill.objectives.weightings.weighting import Weighting
from hf_ddistill.shapes import Times


@dataclass(frozen=True)
class Learned(Weighting):
    """w(t) = 1 / E[loss | t]: all times pull alike, however large their losses are.

    That is exp(-u) at the u(t) which minimises E[exp(-u) loss + u] (Eq. 21), where the paper trains
    a small network; here the mean is a running one, in bins of t. In an evaluation it is 1.

    Args:
        bins: of t.
        decay: of the running means.

    Raises:
        ValueError: for no bins, or a decay beyond [0, 1).
    """

    bins: int = 16
    decay: float = 0.99
    citation: ClassVar[str] = (
        "Karras et al., Analyzing and Improving the Training Dynamics of Diffusion Models, 2023, "
        "arXiv:2312.02696"
    )

    def __post_init__(self) -> None:
        if self.bins < 1 or not 0 <= self.decay < 1:
            raise ValueError(
                f"bins must be at least 1 and decay in [0, 1), got bins={self.bins}, "
                f"decay={self.decay}."
            )
        check_most(self, "bins")

    def of_time(self, step: TrainingStep, t: Times) -> Times:
        if step.held_out:
            return torch.ones_like(t)
        total, count = self._tables(step)
        mean = total / count.clamp_min(1e-12)
        # A bin without a loss as yet counts as the mean of all.
        mean = torch.where(count > 0, mean, total.sum() / count.sum().clamp_min(1e-12))
        mean = torch.where(mean > 0, mean, 1.0)
        return 1 / mean[self._bin(t)]

    def learn(self, step: TrainingStep, t: Times, losses: Tensor) -> None:
        if step.held_out:
            return
        # A product, which sums in one order wherever it runs.
        member = (self._bin(t)[:, None] == torch.arange(self.bins, device=t.device)).double()
        for name, kept, new in zip(
            ("total", "count"),
            self._tables(step),
            (losses.double() @ member, member.sum(0)),
            strict=True,
        ):
            step.memory.of(self.id).put(name, self.decay * kept + new)

    def _tables(self, step: TrainingStep) -> tuple[Tensor, Tensor]:
        """The running sums of losses and of rows, (bins,)."""
        memory, device = step.memory.of(self.id), step.x_0.device
        fresh = torch.zeros(self.bins, dtype=torch.float64, device=device)
        return tuple(memory.get(name, fresh.clone()).to(device) for name in ("total", "count"))

    def _bin(self, t: Times) -> Tensor:
        return (t * self.bins).long().clamp(0, self.bins - 1)
