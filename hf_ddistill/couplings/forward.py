"""Pairs of the forward process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hf_ddistill.couplings.coupling import Coupling, Past
from hf_ddistill.couplings.training_step import TrainingStep
from hf_ddistill.shapes import Times, Tokens


@dataclass(frozen=True)
class ForwardPair(Coupling):
    """x_s ~ P_0s[x_0] and x_t ~ P_st[x_s]: the true joint law, so E[p(x_0|x_s) | x_t] =
    p(x_0|x_t)."""

    id: ClassVar[str] = "forward"
    citation: ClassVar[str] = (
        "Gao, Sun, Exact Conditional Distribution Matching, 2025, arXiv:2512.12889"
    )

    def draw(self, step: TrainingStep, s: Times, t: Times) -> tuple[Tokens, Past]:
        x_s = step.noised(s)
        x_t = step.given(step.diffusion.renoise(x_s, s, t, step.generator))
        return x_t, Past.known(step, x_t, x_s)
