"""Ties of a student to its teacher, token by token, for objectives that would else lose its
variety."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hf_ddistill.couplings import Local, TrainingStep
from hf_ddistill.divergences import ReverseKL
from hf_ddistill.objectives.by_position import by_position
from hf_ddistill.shapes import Tokens


def divergence_from_teacher(step: TrainingStep, student: Local, x_t: Tokens) -> Tensor:
    """KL(student || teacher) of the tokens that a prediction at x_t is of, summed over each row,
    (B,); gradients flow to the student."""
    with torch.no_grad():
        teacher = step.look(step.peers["teacher"], x_t, student.t, student.places)
    of = (teacher.prediction.log_conditional.squeeze(1),)

    def distance(some: slice, log_q: Tensor, log_p: Tensor) -> Tensor:
        return ReverseKL()(log_p[some], log_q)

    value = by_position(distance, student.prediction.log_conditional, of=of)
    return value.new_zeros(len(x_t)).index_add(0, student.rows, value)


def entropy_of(student: Local, rows: int) -> Tensor:
    """The entropy of the tokens that a prediction is of, summed over each row, (B,); gradients
    flow."""

    def entropy(_: slice, log_q: Tensor) -> Tensor:
        return -(log_q.exp() * log_q).sum(-1)

    value = by_position(entropy, student.prediction.log_conditional)
    return value.new_zeros(rows).index_add(0, student.rows, value)


def check_weights(name: str, **weights: float) -> None:
    """Raise for a weight that is no number from 0 on."""
    for setting, weight in weights.items():
        if not 0 <= weight < math.inf:
            raise ValueError(f"Objective {name!r}: {setting} must be 0 or more, got {weight}.")
