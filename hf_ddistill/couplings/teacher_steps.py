"""Pairs by steps of the teacher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from hf_ddistill.couplings.coupling import Coupling, Past
from hf_ddistill.couplings.step_back import step_of
from hf_ddistill.couplings.training_step import TrainingStep
from hf_ddistill.kinds import check_most
from hf_ddistill.samplers import Ancestral, Sampler, walk
from hf_ddistill.shapes import Times, Tokens


@dataclass(frozen=True)
class TeacherSteps(Coupling):
    """x_t ~ P_0t[x_0] and x_s by `substeps` equal steps of the teacher.

    Args:
        substeps: at least 1.
        sampler: of each step; with a rule it costs one network call, of open positions alone.
    """

    substeps: int = 1
    sampler: Sampler | Mapping[str, Any] | str = Ancestral()
    id: ClassVar[str] = "teacher"
    citation: ClassVar[str] = (
        "Deschenaux, Gulcehre, Self-Distillation Through Time, 2024, arXiv:2410.21035"
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "sampler", Sampler.from_config(self.sampler))
        if self.substeps < 1:
            raise ValueError(f"substeps must be at least 1, got {self.substeps}.")
        check_most(self, "substeps")

    def draw(self, step: TrainingStep, s: Times, t: Times) -> tuple[Tokens, Past]:
        x_t, teacher, run = step.noised(t), step.peers["teacher"], self.sampler.begin()

        @torch.no_grad()
        def move(x: Tokens, then: Times, now: Times) -> Tokens:
            if run.is_product:
                return step_of(step, teacher, x, then, now, run)
            x_s = run.step(teacher, x, then, now, step.generator, **step.condition)
            return torch.where(step.trained, x_s, x)

        x_s = walk([t + (s - t) * i / self.substeps for i in range(self.substeps + 1)], x_t, move)
        return x_t, Past.known(step, x_t, x_s)
