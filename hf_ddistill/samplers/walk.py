"""The loop over steps that all samplers share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Generic, TypeVar

State = TypeVar("State")


@dataclass
class Reached(Generic[State]):
    """Where a walk has got to; who is told may put another state in its place, or end it.

    Args:
        number: of the step, from 0.
        t: the time that the step was from.
        s: the time that it has reached.
        before: what was there at t, such as x_t.
        state: what is there, such as x_s.
        stop: whether the walk ends here.
    """

    number: int
    t: Any
    s: Any
    before: State
    state: State
    stop: bool = False


def walk(
    grid: Sequence[Any],
    state: State,
    move: Callable[[State, Any, Any], State],
    on_step: Callable[[Reached[State]], object] | None = None,
) -> State:
    """The loop over steps: `state = move(state, s, t)` for each t of the grid and the s after it.

    Args:
        grid: times, descending; a number each, or a tensor with one for each row.
        state: at the first of them.
        move: makes one step.
        on_step: is told behind each.
    """
    for number, (t, s) in enumerate(pairwise(grid)):
        reached = Reached(number, t, s, state, move(state, s, t))
        if on_step is not None:
            on_step(reached)
        state = reached.state
        if reached.stop:
            break
    return state
