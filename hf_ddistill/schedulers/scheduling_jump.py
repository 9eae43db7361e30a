"""Jump steps: a whole x_0 is drawn from the model and noised again."""

from __future__ import annotations

from diffusers.schedulers.scheduling_utils import SchedulerMixin  # noqa: F401 (diffusers looks here)

from hf_ddistill.samplers import Jump
from hf_ddistill.schedulers.scheduling_base import DiscreteSchedulerBase


class JumpScheduler(DiscreteSchedulerBase):
    """
    Draws x_0 ~ p(x_0 | x_t), all of it, and x_s from the forward process at s.

    For students whose every call draws a whole sequence. Under masks what x_t had revealed stays
    in x_0 and may be masked again on the way to x_s, so that later calls mend earlier ones.

    References:
        Consistency Models (2023), arXiv:2303.01469, Algorithm 1.

    Args:
        process, schedule, temperature, ...: see `DiscreteSchedulerBase`.
    """

    kind = Jump


__all__ = ["JumpScheduler"]
