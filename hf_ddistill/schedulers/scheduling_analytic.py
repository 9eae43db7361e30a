"""Analytic steps (Tweedie tau-leaping) from the concrete score."""

from __future__ import annotations

from diffusers.schedulers.scheduling_utils import SchedulerMixin  # noqa: F401 (diffusers looks here)

from hf_ddistill.samplers import Analytic
from hf_ddistill.schedulers.scheduling_base import DiscreteSchedulerBase


class AnalyticScheduler(DiscreteSchedulerBase):
    """
    Draws x_s from (P_st^-1 score) * P_st[., x_t].

    Since the ratios are taken from the conditional, this is the step of `AncestralScheduler`, under
    the name that it has for scores; no kernel is inverted.

    References:
        Discrete Diffusion Modeling by Estimating the Ratios of the Data Distribution (2023),
        arXiv:2310.16834, Theorem 4.2.

    Args:
        process, schedule, temperature, ...: see `DiscreteSchedulerBase`.
    """

    kind = Analytic


__all__ = ["AnalyticScheduler"]
