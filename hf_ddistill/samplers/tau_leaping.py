"""Tau-leaping, first order in t - s."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hf_ddistill.diffusion import Diffusion
from hf_ddistill.parameterizations import Prediction
from hf_ddistill.samplers.chances import Chances, jump_rate
from hf_ddistill.samplers.flat_jumps import draw_flat_jump, draws_flat_jumps, flat_jumps
from hf_ddistill.samplers.jumps import check_pace, expected_jumps
from hf_ddistill.samplers.sampler import Sampler
from hf_ddistill.shapes import Generators, Probs, Tokens


@dataclass(frozen=True)
class TauLeaping(Sampler):
    """Poisson numbers of jumps at the rates of the start, a single jump accepted and more than one
    refused.

    Token y gets P(one jump to y, none elsewhere) = r_y e^-r with r = sum_y r_y, and x_t the rest:
    tau-leaping for categorical data (Section 4.3).
    """

    id: ClassVar[str] = "tau_leaping"
    citation: ClassVar[str] = "Campbell et al., 2022, arXiv:2205.14987"

    def check(self, diffusion: Diffusion) -> None:
        """Raise where noise comes infinitely fast at t = 1."""
        check_pace(self.id, diffusion)

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
        """r e^-r."""
        jumps = jump_rate(diffusion, s, t)
        return Chances(jumps * torch.exp(-jumps))

    def advance(
        self,
        prediction: Prediction,
        diffusion: Diffusion,
        x_t: Tokens,
        s: Tensor | float,
        t: Tensor | float,
        generator: Generators = None,
    ) -> Tokens:
        """Where noise is flat the token of a jump is drawn without the rates, see `flat_jumps`."""
        last = bool((torch.as_tensor(s) == 0).all())
        if last or not draws_flat_jumps(diffusion, generator):
            return super().advance(prediction, diffusion, x_t, s, t, generator)
        jumps = flat_jumps(prediction, diffusion, x_t, s, t)
        return draw_flat_jump(
            jumps, prediction, x_t, lambda jumps: jumps * torch.exp(-jumps), generator
        )
