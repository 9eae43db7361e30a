"""Tau-leaping, first order in t - s."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hf_ddistill.diffusion import Diffusion
from hf_ddistill.parameterizations import Prediction
from hf_ddistill.samplers.chances import Chances, jump_rate
from hf_ddistill.samplers.jumps import expected_jumps
from hf_ddistill.samplers.one_jump import OneJump
from hf_ddistill.samplers.sampler import Sampler
from hf_ddistill.shapes import Probs, Tokens


@dataclass(frozen=True)
class TauLeaping(OneJump, Sampler):
    """Poisson numbers of jumps at the rates of the start, a single jump accepted and more than one
    refused.

    Token y gets P(one jump to y, none elsewhere) = r_y e^-r with r = sum_y r_y, and x_t the rest:
    tau-leaping for categorical data (Section 4.3).
    """

    id: ClassVar[str] = "tau_leaping"
    citation: ClassVar[str] = "Campbell et al., 2022, arXiv:2205.14987"

    def rule(
        self,
        prediction: Prediction,
        diffusion: Diffusion,
        x_t: Tokens,
        s: Tensor | float,
        t: Tensor | float,
    ) -> Probs:
        """r_y e^-r."""
        step = expected_jumps(prediction, diffusion, x_t, s, t)
        jump = step * torch.exp(-step.sum(-1, keepdim=True))
        return jump.scatter(-1, x_t[..., None], 1 - jump.sum(-1, keepdim=True))

    def chances(self, diffusion: Diffusion, s: Tensor | float, t: Tensor | float) -> Chances:
        """What leaves a mask."""
        return Chances(self.leaving(jump_rate(diffusion, s, t)))

    def leaving(self, jumps: Tensor) -> Tensor:
        """r e^-r."""
        return jumps * torch.exp(-jumps)
