"""The steps of a scheduler in the loop that all samplers share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from hf_ddistill.denoisers import Denoiser, Sharpened
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.samplers import Sampler, look
from hf_ddistill.schedulers import DiscreteSchedulerBase, DiscreteSchedulerOutput
from hf_ddistill.shapes import Generators, Tokens


def scheduled(scheduler: DiscreteSchedulerBase, guided: Callable[[], Denoiser]) -> _Scheduled:
    """A scheduler's `step` as that of a sampler, at the scheduler's times; its `output` is kept.

    Args:
        scheduler: whose steps.
        guided: gives the denoiser of each step, which a callback may have changed.
    """
    return _Scheduled(scheduler, guided)


class _Scheduled(Sampler):
    """A scheduler's `step` as that of a sampler, at the scheduler's times.

    Args:
        scheduler: whose steps.
        guided: gives the denoiser of each step, which a callback may have changed.
    """

    def __init__(self, scheduler: DiscreteSchedulerBase, guided: Callable[[], Denoiser]) -> None:
        self.scheduler, self.guided = scheduler, guided
        self.run = scheduler.sampler.begin()
        self.output: DiscreteSchedulerOutput | dict[str, torch.Tensor] = {}

    def grid(self, n: int, diffusion: Diffusion) -> Sequence[float]:
        """The scheduler's own times, as they were set."""
        return [*self.scheduler.timesteps.tolist(), 0.0]

    def step(
        self,
        denoiser: Denoiser,
        x_t: Tokens,
        s: torch.Tensor | float,
        t: torch.Tensor | float,
        generator: Generators = None,
        **condition: Any,
    ) -> Tokens:
        """The scheduler's step, whose output is kept; that of its sampler, where it takes several
        calls."""
        model = self.guided()
        if not self.run.calls_once:
            model = Sharpened(model, *self.scheduler.sharpening)
            return self.run.step(model, x_t, s, t, generator, **condition)
        log_p = look(model, x_t, t, generator, **condition).log_conditional
        self.output = self.scheduler.step(log_p, t, x_t, generator=generator)
        return self.output.prev_sample
