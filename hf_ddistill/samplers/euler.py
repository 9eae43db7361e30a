"""Euler steps of the reverse process, first order in t - s."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from hf_ddistill.diffusion import Diffusion
from hf_ddistill.parameterizations import Prediction
from hf_ddistill.samplers.chances import Chances, jump_rate
from hf_ddistill.samplers.jumps import cut_at_one, expected_jumps
from hf_ddistill.samplers.one_jump import OneJump
from hf_ddistill.samplers.sampler import Sampler
from hf_ddistill.shapes import Probs, Tokens


@dataclass(frozen=True)
class Euler(OneJump, Sampler):
    """One Euler step I + (t - s) R of the reverse rate R; what leaves x_t is cut at 1 (Eq. 11)."""

    id: ClassVar[str] = "euler"
    citation: ClassVar[str] = (
        "Gao, Sun, Exact Conditional Distribution Matching, 2025, arXiv:2512.12889"
    )

    def rule(
        self,
        prediction: Prediction,
        diffusion: Diffusion,
        x_t: Tokens,
        s: Tensor | float,
        t: Tensor | float,
    ) -> Probs:
        """I + (t - s) R."""
        return cut_at_one(expected_jumps(prediction, diffusion, x_t, s, t), x_t)

    def chances(self, diffusion: Diffusion, s: Tensor | float, t: Tensor | float) -> Chances:
        """What leaves a mask."""
        return Chances(self.leaving(jump_rate(diffusion, s, t)))

    def leaving(self, jumps: Tensor) -> Tensor:
        """At most 1."""
        return jumps.clamp_max(1)
