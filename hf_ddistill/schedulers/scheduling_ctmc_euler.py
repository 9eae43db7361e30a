"""Euler steps of the reversed continuous-time Markov chain."""

from __future__ import annotations

from diffusers.schedulers.scheduling_utils import SchedulerMixin  # noqa: F401 (diffusers looks here)

from hf_ddistill.samplers import Euler
from hf_ddistill.schedulers.scheduling_base import DiscreteSchedulerBase


class CTMCEulerScheduler(DiscreteSchedulerBase):
    """
    Draws x_s from I + (t - s) R with R the reverse rate at t; what leaves x_t is cut at 1.

    First order in the step length t - s. (The `Euler...Discrete` schedulers of diffusers are for
    continuous diffusion: there, discrete are the times.)

    References:
        A Continuous Time Framework for Discrete Denoising Models (2022), arXiv:2205.14987;
        Discrete Diffusion Modeling by Estimating the Ratios of the Data Distribution (2023),
        arXiv:2310.16834, Eq. 4.

    Args:
        process, schedule, temperature, ...: see `DiscreteSchedulerBase`.
    """

    kind = Euler


__all__ = ["CTMCEulerScheduler"]
