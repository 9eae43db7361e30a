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


@dataclass(frozen=True)
class Progress:
    """Is told how much of the work is done, and looks at no state.

    Args:
        told: (share of it, in (0, 1]).
    """

    told: Callable[[float], object]


def unwatched(on_step: Callable[..., object] | Progress | None) -> bool:
    """Whether nobody looks at the state behind each step."""
    return on_step is None or isinstance(on_step, Progress)


def walk(
    grid: Sequence[Any],
    state: State,
    move: Callable[[State, Any, Any], State],
    on_step: Callable[[Reached[State]], object] | Progress | None = None,
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
        if isinstance(on_step, Progress):
            on_step.told((number + 1) / (len(grid) - 1))
        elif on_step is not None:
            on_step(reached)
        state = reached.state
        if reached.stop:
            break
    return state
