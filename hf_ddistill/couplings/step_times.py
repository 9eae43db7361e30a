"""Times a whole step of the student apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from hf_ddistill.couplings.times import TimeSampler, below, stratified
from hf_ddistill.couplings.training_step import TrainingStep
from hf_ddistill.shapes import Times


@dataclass(frozen=True)
class StepTimes(TimeSampler):
    """s = t - 1 / k for a student of k steps, t uniform in [1 / k, 1].

    In a round for k calls that is the step of this round: rounds that halve k double it.

    Args:
        grid: t on the student's own grid, i / k, instead of everywhere.
    """

    grid: bool = False
    citation: ClassVar[str] = (
        "Deschenaux, Gulcehre, Self-Distillation Through Time, 2024, arXiv:2410.21035"
    )

    def draw(self, step: TrainingStep) -> tuple[Times, Times, Times]:
        k = step.student_steps
        u = stratified(step.x_0.shape[0], step.generator, step.x_0.device)
        t = (u * k).ceil().clamp(1, k) / k if self.grid else 1 / k + (1 - 1 / k) * u
        return below(t, torch.full_like(t, 1 / k), torch.ones_like(t)), t, torch.ones_like(t)
