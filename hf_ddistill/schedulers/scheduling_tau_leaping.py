"""Tau-leaping: Poisson numbers of jumps at the rates of the start of a step."""

from __future__ import annotations

from diffusers.schedulers.scheduling_utils import SchedulerMixin  # noqa: F401 (diffusers looks here)

from hf_ddistill.samplers import TauLeaping
from hf_ddistill.schedulers.scheduling_base import DiscreteSchedulerBase


class TauLeapingScheduler(DiscreteSchedulerBase):
    """
    Draws x_s by one jump to y with probability r_y e^-r, r the sum of the rates r_y times t - s.

    Two jumps of one position in one step are refused, for they have no meaning for categories.
    First order in t - s.

    References:
        A Continuous Time Framework for Discrete Denoising Models (2022), arXiv:2205.14987,
        Section 4.3.

    Args:
        process, schedule, temperature, ...: see `DiscreteSchedulerBase`.
    """

    kind = TauLeaping


__all__ = ["TauLeapingScheduler"]
