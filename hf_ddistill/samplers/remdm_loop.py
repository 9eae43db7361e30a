"""Remasking while the share of masks stands still."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hf_ddistill.diffusion import Diffusion, times
from hf_ddistill.samplers.remasking import Remasking, check_strategy, sigma
from hf_ddistill.samplers.sampler import Sampler, step_grid

#: How far time falls in the loop, as a share of itself: no two steps are at one time, by which a
#: scheduler would not know them apart.
FALL = 0.01


@dataclass(frozen=True)
class ReMDMLoop(Remasking, Sampler):
    """`ReMDM` that first reveals without remasking, then stays where `alpha` of the tokens are
    revealed and masks and reveals there, and at last reveals the rest.

    Its grid falls evenly from 1 to the time at which `alpha` are left, where it nearly stands
    still for (ends - begins) n of n steps, and then evenly to 0.

    Args:
        strategy: that of `ReMDM`, in the loop; sigma is 0 outside.
        eta: that of `ReMDM`.
        alpha: share of the tokens that are revealed in the loop, in (0, 1).
        begins: share of the steps at which the loop begins.
        ends: share of the steps at which it ends, above `begins`.

    Raises:
        ValueError: for others; from `check`, for a process without a mask that reveals.
    """

    strategy: str = "cap"
    eta: float = 0.02
    alpha: float = 0.9
    begins: float = 0.45
    ends: float = 0.95
    id: ClassVar[str] = "remdm_loop"

    def __post_init__(self) -> None:
        check_strategy(self.strategy, self.eta)
        if not 0 < self.alpha < 1:
            raise ValueError(
                f"alpha, the share revealed in the loop, is in (0, 1), got {self.alpha}."
            )
        if not 0 < self.begins < self.ends < 1:
            raise ValueError(
                "The loop begins and ends within the steps: 0 < begins < ends < 1, got "
                f"{self.begins} and {self.ends}."
            )

    def grid(self, n: int, diffusion: Diffusion) -> Sequence[float]:
        """See the class."""
        begin, end = (float(time) for time in self._loop(diffusion))
        knots = [(0.0, 1.0), (self.begins, begin), (self.ends, end), (1.0, 0.0)]

        def time(done: float) -> float:
            after = next(number for number, knot in enumerate(knots[1:], 1) if done <= knot[0])
            (x, high), (y, low) = knots[after - 1], knots[after]
            return high + (low - high) * (done - x) / (y - x)

        return [*(time(1 - even) for even in step_grid(n)[:-1]), 0.0]

    def sigma(self, diffusion: Diffusion, s: Tensor | float, t: Tensor | float) -> Tensor:
        """That of `ReMDM` where s and t are both in the loop, else 0."""
        s, t = times(s), times(t)
        begin, end = self._loop(diffusion)
        slack = 1e-9 * begin
        inside = (t.to(begin) <= begin + slack) & (s.to(begin) >= end - slack)
        again = sigma(self.strategy, self.eta, diffusion, s, t)
        return torch.where(inside.to(again.device), again, torch.zeros_like(again))

    def _loop(self, diffusion: Diffusion) -> tuple[Tensor, Tensor]:
        """The times at which it begins and ends."""
        left = torch.tensor(self.alpha, dtype=torch.float64)
        begin = diffusion.schedule.inverse(-left.log())
        return begin, (1 - FALL) * begin
