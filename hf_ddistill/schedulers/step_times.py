"""The times that a scheduler steps through: how many there may be, and which is meant."""

from __future__ import annotations

import bisect
import operator
from collections.abc import Sequence
from typing import Any

import torch

#: More network calls than any sampler has a use for; a file with more is broken.
MAX_STEPS = 100_000
_TOLERANCE = 1e-6  # of a time that comes back from a tensor of lower precision


def number_of_steps(value: Any) -> int:
    """An integer of any library as Python's own.

    Raises:
        ValueError: if it is none from 1 to `MAX_STEPS`.
    """
    try:
        steps = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        steps = None
    if steps is None or not 0 < steps <= MAX_STEPS:
        raise ValueError(
            f"`num_inference_steps` must be an integer > 0 and at most {MAX_STEPS}, got {value!r}."
        )
    return steps


def check_times(timesteps: Sequence[float] | torch.Tensor) -> list[float]:
    """Times that a sampler can step through, as floats.

    Raises:
        ValueError: unless they decrease, within (0, 1], by more than rounding can undo.
    """
    times = torch.as_tensor(timesteps, dtype=torch.float64).flatten()
    if not 0 < len(times) <= MAX_STEPS:
        raise ValueError(f"`timesteps` must be 1 to {MAX_STEPS} times, got {len(times)}.")
    falls = times.diff() < -2 * _TOLERANCE
    if not bool(falls.all()) or not 2 * _TOLERANCE < float(times[-1]) <= float(times[0]) <= 1:
        raise ValueError(
            "`timesteps` must decrease, from 1 (noise) or less to more than 0 (data), got "
            f"{[round(time, 6) for time in times[:8].tolist()]}{' ...' if len(times) > 8 else ''}."
        )
    return times.tolist()


def place_in(times: list[float], time: float) -> int:
    """The place of a time, perhaps rounded, among the decreasing ones of a scheduler.

    Raises:
        ValueError: if it is none of them.
    """
    near = range(len(times))
    if not torch.compiler.is_compiling():  # which cannot look into it
        behind = bisect.bisect_left(times, -time, key=operator.neg)
        near = range(max(behind - 1, 0), min(behind + 1, len(times)))
    place = min(near, key=lambda i: abs(times[i] - time))
    if not abs(times[place] - time) < _TOLERANCE:
        shown = ", ".join(f"{each:.6g}" for each in times[:3]) + (", ..." if len(times) > 3 else "")
        raise ValueError(
            f"`timestep`={time:.6g} is not one of the scheduler's {len(times)} timesteps {shown}; "
            "call `set_timesteps` and step through `timesteps`."
        )
    return place


def plain(value: Any) -> Any:
    """A number of NumPy or torch as Python's own, for a configuration; all else as it is."""
    return value.item() if hasattr(value, "item") else value
