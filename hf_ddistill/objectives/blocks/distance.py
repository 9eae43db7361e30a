"""The distance of a student from a teacher that was asked at some of the same positions."""

from __future__ import annotations

from torch import Tensor

from hf_ddistill.couplings import Local
from hf_ddistill.divergences import Divergence
from hf_ddistill.objectives.by_position import by_position


def distance_of(divergence: Divergence, teacher: Local, student: Local) -> Tensor:
    """D (N,) at each position of the teacher, with the student's gradients."""

    def distance(some: slice, log_q: Tensor, log_p: Tensor) -> Tensor:
        return divergence(log_p[some], log_q)

    log_q, of = student.prediction.log_conditional, (teacher.prediction.log_conditional[:, 0],)
    if teacher.places is student.places:
        return by_position(distance, log_q, of=of)
    numbers = student.numbers_of(teacher.places)
    return by_position(distance, log_q, numbers, of=of).index_select(0, numbers)
