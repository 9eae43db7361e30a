"""Ancestral steps: x_0 is drawn from the model, x_s from its exact bridge to x_t."""

from __future__ import annotations

from diffusers.schedulers.scheduling_utils import SchedulerMixin  # noqa: F401 (diffusers looks here)

from hf_ddistill.samplers import Ancestral
from hf_ddistill.schedulers.scheduling_base import DiscreteSchedulerBase


class AncestralScheduler(DiscreteSchedulerBase):
    """
    Draws x_s from sum over x_0 of q(x_s | x_t, x_0) p(x_0 | x_t).

    Each position's step is exact for the model's p(x_0 | x_t) whatever its length; the only error
    is that positions are drawn independently of each other.

    References:
        Structured Denoising Diffusion Models in Discrete State-Spaces (2021), arXiv:2107.03006,
        Eq. 4; for masks: Simple and Effective Masked Diffusion Language Models (2024),
        arXiv:2406.07524.

    Args:
        process, schedule, temperature, ...: see `DiscreteSchedulerBase`.
    """

    kind = Ancestral


__all__ = ["AncestralScheduler"]
