"""Euler steps of the reverse process, first order in t - s."""

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
class Euler(Sampler):
    """One Euler step I + (t - s) R of the reverse rate R; what leaves x_t is cut at 1 (Eq. 11)."""

    id: ClassVar[str] = "euler"
    citation: ClassVar[str] = (
        "Gao, Sun, Exact Conditional Distribution Matching, 2025, arXiv:2512.12889"
    )

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
        """I + (t - s) R."""
        step = expected_jumps(prediction, diffusion, x_t, s, t)
        leaving = step.sum(-1, keepdim=True)
        staying = (1 - leaving).clamp_min(0)
        return (step / leaving.clamp_min(1)).scatter(-1, x_t[..., None], staying)

    def chances(self, diffusion: Diffusion, s: Tensor | float, t: Tensor | float) -> Chances:
        """What leaves a mask, at most 1."""
        return Chances(jump_rate(diffusion, s, t).clamp_max(1))

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
        return draw_flat_jump(jumps, prediction, x_t, lambda jumps: jumps.clamp_max(1), generator)
