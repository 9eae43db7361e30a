"""How many network calls a sampler takes, and how many steps so many calls allow."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hf_ddistill.denoisers import NetworkDenoiser
from hf_ddistill.laboratory.problem import ExactProblem
from hf_ddistill.samplers import Canvas, Sampler
from hf_ddistill.shapes import Tokens


def calls_of(sampler: Sampler, problem: ExactProblem, steps: int, rows: int = 16) -> int:
    """Calls of the exact teacher in one run: of the slowest row, where rows differ."""
    teacher, calls = problem.denoiser(), []

    def network(x_t: Tokens, t: Tensor | None, **condition: Any) -> Tensor:
        calls.append(len(x_t))
        return teacher.network(x_t, t, **condition)

    counting = NetworkDenoiser(
        network, teacher.diffusion, teacher.parameterization, reads_time=teacher.reads_time
    )
    canvas = Canvas.empty((rows, problem.length))
    sampler.sample(counting, canvas, steps, torch.Generator().manual_seed(0))
    return len(calls)


def steps_within(sampler: Sampler, problem: ExactProblem, calls: int) -> int:
    """The most steps that take no more than so many calls.

    Raises:
        ValueError: if one step takes more.
    """
    low, high = 0, calls
    while low < high:
        middle = (low + high + 1) // 2
        if calls_of(sampler, problem, middle) <= calls:
            low = middle
        else:
            high = middle - 1
    if low == 0:
        raise ValueError(
            f"A step of the sampler {sampler.id!r} takes {calls_of(sampler, problem, 1)} network "
            f"calls, and {calls} are given."
        )
    return low
