"""Euler steps of discrete flow matching: noise jumps to data and nowhere else."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hf_ddistill.diffusion import Diffusion
from hf_ddistill.parameterizations import Prediction
from hf_ddistill.samplers.chances import Chances, integrated_jumps, jump_rate
from hf_ddistill.samplers.interval import interval
from hf_ddistill.samplers.jumps import check_pace
from hf_ddistill.samplers.sampler import Sampler
from hf_ddistill.shapes import Probs, Tokens


@dataclass(frozen=True)
class FlowMatching(Sampler):
    """A clean token a ~ p(x_0 | x_t) is drawn, and x_t jumps at most once on the way to it.

    The rate of a jump to y is

    u(y | a) = (1 + c) sigma' alpha / (1 - alpha) 1[y = a] + c sigma' pi_y,  y != x_t,

    of the path alpha 1[a] + (1 - alpha) pi: with c = 0 the least that takes noise to data, where
    the reverse process moves noise to other noise as well; c adds jumps that keep the law at t
    (a corrector). kappa of the paper is alpha, and its time 1 - t.

    Args:
        corrector: c, at least 0.
        integrated: the number of jumps of a step from the integral of their rate, log (1 - alpha_t)
            / (1 - alpha_s), instead of (t - s) times the rate at its start: with c = 0 a step then
            has the law of the path at s, however long it is, up to what positions share (under
            Absorbing it is the ancestral one).

    References: the solver of facebookresearch/flow_matching, `MixtureDiscreteEulerSolver`;
    integrated, the cumulative scalar of FS-DFM (2025, arXiv:2509.20624).

    Raises:
        ValueError: for another c, or one above 0 with `integrated`; from `check`, for a process of
            another kind, and where the noise is infinitely fast at t = 1 (not `integrated`).
    """

    corrector: float = 0.0
    integrated: bool = False
    id: ClassVar[str] = "flow_matching"
    citation: ClassVar[str] = "Gat et al., Discrete Flow Matching, 2024, arXiv:2407.15595"

    def __post_init__(self) -> None:
        if not 0 <= self.corrector < math.inf:
            raise ValueError(f"corrector must be at least 0 and finite, got {self.corrector}.")
        if self.corrector and self.integrated:
            raise ValueError(
                f"An integrated rate has no corrector, got corrector={self.corrector} with "
                "integrated=True."
            )

    @property
    def keeps_certain(self) -> bool:
        """Whether nothing but noise moves."""
        return self.corrector == 0

    def check(self, diffusion: Diffusion) -> None:
        """Raise unless the process redraws tokens from one law, at a finite pace."""
        if not diffusion.process.redraws:
            raise ValueError(
                "The sampler 'flow_matching' has a path for processes that redraw a token from "
                f"one law, as Absorbing and Uniform do, not for {type(diffusion.process).__name__}."
            )
        if not self.integrated:
            check_pace(self.id, diffusion)

    def rule(
        self,
        prediction: Prediction,
        diffusion: Diffusion,
        x_t: Tokens,
        s: Tensor | float,
        t: Tensor | float,
    ) -> Probs:
        """sum_a p(a | x_t) [(1 - e^-r) u(y | a) / sum u + e^-r 1[y = x_t]], r = (t - s) sum u."""
        s, t = interval(s, t, x_t)
        p, here = prediction.log_conditional.exp(), x_t[..., None]
        law = diffusion.process.limit().to(p.device, p.dtype)
        to_data = ((1 + self.corrector) * self._jumps(diffusion, s, t)).to(p.dtype)
        pace = diffusion.pace(t) if self.corrector else 0.0
        afresh = (self.corrector * (t - s) * pace).to(p.dtype)
        if to_data.ndim:
            to_data, afresh = to_data[:, None, None], afresh[:, None, None]
        noise = law[x_t][..., None]
        # Where x_t cannot be noise it is the data, whatever is said of it.
        to_data, away = to_data * (noise > 0), afresh * (1 - noise)
        # What jumps where a is another token, and where it is x_t; the latter's p is p(x_t).
        moved, kept = _per_jump(to_data + away), _per_jump(away)
        same = p.gather(-1, here)
        jumps = moved * to_data * p + ((1 - same) * moved + same * kept) * afresh * law
        jumps = jumps.scatter(-1, here, 0.0)
        return jumps.scatter(-1, here, (1 - jumps.sum(-1, keepdim=True)).clamp_min(0))

    def chances(self, diffusion: Diffusion, s: Tensor | float, t: Tensor | float) -> Chances | None:
        """1 - e^-r, where a mask jumps to data alone."""
        if self.corrector:
            return None
        return Chances(-torch.expm1(-self._jumps(diffusion, s, t)))

    def _jumps(self, diffusion: Diffusion, s: Tensor | float, t: Tensor | float) -> Tensor:
        """The expected number of jumps of noise to data in a step."""
        return (integrated_jumps if self.integrated else jump_rate)(diffusion, s, t)


def _per_jump(jumps: Tensor) -> Tensor:
    """(1 - e^-r) / r."""
    return torch.where(jumps > 0, -torch.expm1(-jumps) / jumps, 1.0)
