"""Times of one interval: those of a student that shares its task with others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hf_ddistill.couplings.times import EARLIEST, TimeSampler, stratified
from hf_ddistill.couplings.training_step import TrainingStep
from hf_ddistill.linalg import uniform_noise
from hf_ddistill.shapes import Times


@dataclass(frozen=True)
class IntervalTimes(TimeSampler):
    """t uniform in (low, high], s uniform in [low, t): the task of one of several students that
    `denoisers.Parted` samples as one.

    Args:
        low, high: 0 <= low < high <= 1.

    Raises:
        ValueError: for others.
    """

    low: float = 0.0
    high: float = 1.0
    citation: ClassVar[str] = (
        "Fan et al., Phased DMD: Few-step Distribution Matching Distillation via Score Matching "
        "within Subintervals, 2025, arXiv:2510.27684"
    )

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 1:
            raise ValueError(
                f"An interval has 0 <= low < high <= 1, got low={self.low}, high={self.high}."
            )

    def draw(self, step: TrainingStep) -> tuple[Times, Times, Times]:
        u = stratified(step.x_0.shape[0], step.generator, step.x_0.device)
        t = (self.low + (self.high - self.low) * u).clamp_min(EARLIEST)
        share = uniform_noise(t.shape, step.generator, t.device)
        s = (self.low + (t - self.low) * share).clamp_min(EARLIEST / 2).minimum(t * (1 - 1e-6))
        return s, t, t.new_ones(t.shape)
