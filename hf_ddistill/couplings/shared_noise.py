"""Pairs of one and the same noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hf_ddistill.couplings.coupling import Coupling, Past
from hf_ddistill.couplings.training_step import TrainingStep
from hf_ddistill.shapes import Times, Tokens


@dataclass(frozen=True)
class SharedNoise(Coupling):
    """x_s and x_t corrupt x_0 with the same random numbers: not Markov except under Absorbing.

    x_s then says more of x_0 than x_t can know, which keeps a target from averaging over all
    pasts (consistency distillation; for masks the joint law is that of `forward`).
    """

    id: ClassVar[str] = "shared_noise"
    citation: ClassVar[str] = "Sahoo et al., The Diffusion Duality, 2025, arXiv:2506.10892"

    def draw(self, step: TrainingStep, s: Times, t: Times) -> tuple[Tokens, Past]:
        if step.generator is None:
            raise ValueError(
                "Shared noise needs an explicit generator, to draw the same numbers twice."
            )
        state = step.generator.get_state()
        x_t = step.noised(t)
        step.generator.set_state(state)
        x_s = step.noised(s)
        return x_t, lambda _: x_s
