"""The steps of a scheduler in the loop that all samplers share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from hf_ddistill.denoisers import Denoiser, Guided, Sharpened
from hf_ddistill.denoisers.composite import Ask, Composite
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.parameterizations import Prediction
from hf_ddistill.samplers import Sampler, look
from hf_ddistill.schedulers import DiscreteSchedulerBase, DiscreteSchedulerOutput
from hf_ddistill.shapes import Generators, Tokens


@dataclass(frozen=True)
class Steered(Composite):
    """Classifier-free guidance whose scale is asked for at each call.

    Args:
        denoiser: what is guided.
        scale: gives that of diffusers: 1 for none.
    """

    denoiser: Denoiser
    scale: Callable[[], float]

    def combine(self, ask: Ask, condition: Mapping[str, Any]) -> Prediction:
        """The guided prediction, of two calls, or the plain one."""
        scale = self.scale()
        if scale == 1:
            return ask(self.denoiser, condition)
        return Guided(self.denoiser, scale - 1).combine(ask, condition)


def sharpened_by(scheduler: DiscreteSchedulerBase, denoiser: Denoiser) -> Denoiser:
    """The denoiser with the temperature, top-k and top-p of a scheduler, where it has some."""
    if not scheduler.sharpening or scheduler.sharpening in ((1, None, 1), (1, 0, 1)):
        return denoiser
    return Sharpened(denoiser, *scheduler.sharpening)


def runs_by_itself(scheduler: DiscreteSchedulerBase, asked: bool) -> bool:
    """Whether a scheduler's sampler draws the samples, without the scheduler's steps, and asks the
    denoiser only where a token is drawn.

    Args:
        scheduler: one of a class with a step of its own makes the steps, and so do all where a
            step asks everywhere in any case.
        asked: whether somebody asks for what only a step says, where it can.
    """
    own = type(scheduler).step is not DiscreteSchedulerBase.step
    if own or not scheduler.sampler.calls_once:
        return not own
    return scheduler.diffusion.reveals and not asked


def stepped_by(scheduler: DiscreteSchedulerBase) -> _Stepped:
    """A scheduler's `step` as that of a sampler, at the scheduler's times; its `output` is kept."""
    return _Stepped(scheduler)


class _Stepped(Sampler):
    """A scheduler's `step` as that of a sampler, at the scheduler's times.

    Args:
        scheduler: whose steps.
    """

    def __init__(self, scheduler: DiscreteSchedulerBase) -> None:
        self.scheduler = scheduler
        self.output: DiscreteSchedulerOutput | dict[str, torch.Tensor] = {}

    def grid(self, n: int, diffusion: Diffusion) -> Sequence[float]:
        """The scheduler's own times, as they were set."""
        return self.scheduler.grid

    def step(
        self,
        denoiser: Denoiser,
        x_t: Tokens,
        s: torch.Tensor | float,
        t: torch.Tensor | float,
        generator: Generators = None,
        **condition: Any,
    ) -> Tokens:
        """The scheduler's step, whose output is kept."""
        log_p = look(denoiser, x_t, t, generator, **condition).log_conditional
        self.output = self.scheduler.step(log_p, t, x_t, generator=generator)
        return self.output.prev_sample
