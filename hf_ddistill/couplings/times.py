"""Which times a step of training looks at: s < t for each row, and the weight that makes up for
the choice."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hf_ddistill.configurable import Configurable
from hf_ddistill.couplings.training_step import TrainingStep
from hf_ddistill.linalg import RowStreams, uniform_noise
from hf_ddistill.shapes import Generators, Times

#: No time is drawn below this: a state that is all data teaches nothing and its ratios blow up.
EARLIEST = 1e-3


def stratified(count: int, generator: Generators, device: torch.device) -> Times:
    """`count` numbers in (0, 1], one in each of `count` equal strata, in random order; each by
    itself where each row has a generator of its own.

    References: Kingma et al., Variational Diffusion Models, 2021, arXiv:2107.00630, Appendix I.1.
    """
    if isinstance(generator, RowStreams):
        return 1 - uniform_noise((count,), generator, device)
    noise = uniform_noise((2, count), generator, device)
    return 1 - (noise[1].argsort() + noise[0]) / count


class TimeSampler(Configurable, ABC):
    """(s, t, weight), each (B,), with EARLIEST / 2 <= s < t <= 1."""

    citation: ClassVar[str] = (
        "Gao, Sun, Exact Conditional Distribution Matching, 2025, arXiv:2512.12889"
    )

    @abstractmethod
    def draw(self, step: TrainingStep) -> tuple[Times, Times, Times]:
        """Times and weights for this step's batch."""

    def learn(self, step: TrainingStep, s: Times, t: Times, losses: Tensor) -> None:
        """Look at the losses (B,) that came of the times (only an adaptive sampler does)."""


@dataclass(frozen=True)
class UniformTimes(TimeSampler):
    """t uniform in (0, 1], s uniform in (0, t): Algorithm 1 of ECD, its one-step form."""

    def draw(self, step: TrainingStep) -> tuple[Times, Times, Times]:
        t = stratified(step.x_0.shape[0], step.generator, step.x_0.device).clamp_min(EARLIEST)
        share = uniform_noise(t.shape, step.generator, t.device)
        return below(t, t, share), t, torch.ones_like(t)


@dataclass(frozen=True)
class GridTimes(TimeSampler):
    """t = i / k for a student of k steps, s uniform within that step: the few-step form of ECD."""

    def draw(self, step: TrainingStep) -> tuple[Times, Times, Times]:
        k = step.student_steps
        u = stratified(step.x_0.shape[0], step.generator, step.x_0.device)
        t = (u * k).ceil().clamp(1, k) / k
        share = uniform_noise(t.shape, step.generator, t.device)
        return below(t, torch.full_like(t, 1 / k), share), t, torch.ones_like(t)


def below(t: Times, width: Times, share: Times) -> Times:
    """s in [t - width, t), cut off above 0 so that the state at s still hides something."""
    return (t - share * width).clamp(min=EARLIEST / 2).minimum(t * (1 - 1e-6))
