"""Posterior and fresh noise, mixed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hf_ddistill.diffusion import Diffusion, times
from hf_ddistill.parameterizations import Prediction
from hf_ddistill.samplers.chances import Chances, posterior_chances
from hf_ddistill.samplers.interval import interval
from hf_ddistill.samplers.jump import Jump
from hf_ddistill.samplers.posterior import posterior
from hf_ddistill.samplers.remasking import check_strategy, sigma
from hf_ddistill.samplers.sampler import Sampler
from hf_ddistill.shapes import Probs, Tokens


@dataclass(frozen=True)
class Psi(Sampler):
    """A share kappa of the ancestral step, the rest by drawing x_0 and noising it again.

        q_psi(x_s | x_t) = kappa q(x_s | x_t) + (1 - kappa) sum_x_0 p(x_0 | x_t) P_0s[x_0, x_s]

    Both parts have the right law at s, under every process: kappa = 1 is `ancestral`, kappa = 0 is
    `jump`. Under masks it is ReMDM with sigma = (1 - kappa) (1 - alpha_s), which is how the
    strategies set kappa = 1 - sigma / (1 - alpha_s) in [0, 1] for other processes, too.

    Args:
        kappa: the same at all times, in [0, 1]; None for that of the strategy.
        strategy: "cap", "rescale" or "forward_backward", see `ReMDM`. (Duo's code takes eta^2 for
            eta sigma_max where sigma_max is above eta.)
        eta: of the strategy, in [0, 1].
        between: times within which a step must begin; others are ancestral.

    Raises:
        ValueError: for others.
    """

    kappa: float | None = None
    strategy: str = "rescale"
    eta: float = 0.05
    between: Sequence[float] = (0.0, 1.0)
    id: ClassVar[str] = "psi"
    citation: ClassVar[str] = "Deschenaux et al., Duo++, 2026, arXiv:2602.21185"
    keeps_certain: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_strategy(self.strategy, self.eta)
        if self.kappa is not None and not 0 <= self.kappa <= 1:
            raise ValueError(f"kappa, the share of the posterior, is in [0, 1], got {self.kappa}.")
        object.__setattr__(self, "between", tuple(self.between))
        if len(self.between) != 2 or not 0 <= self.between[0] < self.between[1] <= 1:
            raise ValueError(
                f"between is two times, ascending in [0, 1], got {list(self.between)}."
            )

    def share(self, diffusion: Diffusion, s: Tensor | float, t: Tensor | float) -> Tensor:
        """kappa of a step, float64 () or (B,)."""
        s, t = torch.broadcast_tensors(times(s), times(t))
        if self.kappa is None:
            noised = -torch.expm1(-diffusion.total_noise(s))
            again = sigma(self.strategy, self.eta, diffusion, s, t)
            # To s = 0 there is nothing to be noised again.
            kappa = (1 - again / noised.clamp_min(torch.finfo(noised.dtype).tiny)).clamp(0, 1)
        else:
            kappa = torch.full_like(t, self.kappa)
        low, high = self.between
        return torch.where((low <= t) & (t <= high), kappa, torch.ones_like(kappa))

    def rule(
        self,
        prediction: Prediction,
        diffusion: Diffusion,
        x_t: Tokens,
        s: Tensor | float,
        t: Tensor | float,
    ) -> Probs:
        """See the class."""
        s, t = interval(s, t, x_t)
        kappa = self.share(diffusion, s, t).to(prediction.log_conditional.dtype)
        kappa = kappa[:, None, None] if kappa.ndim else kappa
        ancestral = posterior(prediction, diffusion, x_t, s, t)
        return torch.lerp(Jump().rule(prediction, diffusion, x_t, s, t), ancestral, kappa)

    def chances(self, diffusion: Diffusion, s: Tensor | float, t: Tensor | float) -> Chances:
        """Those of both, mixed."""
        kappa = self.share(diffusion, s, t)
        jump = Jump().chances(diffusion, s, t)
        reveal = posterior_chances(diffusion, s, t).reveal
        return Chances(torch.lerp(jump.reveal, reveal, kappa), (1 - kappa) * jump.remask)
