"""The times that n steps go through."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from numbers import Integral


def step_grid(n: int) -> list[float]:
    """The times 1, 1 - 1/n, ..., 1/n, 0 that n steps go through."""
    if isinstance(n, bool) or not isinstance(n, Integral) or n < 1:
        raise ValueError(f"The number of steps must be an integer of at least 1, got {n!r}.")
    return [1 - i / n for i in range(n)] + [0.0]


def check_grid(grid: Sequence[float]) -> None:
    """Raise unless times lead from noise to data."""
    descends = all(t > s for t, s in pairwise(grid))
    if len(grid) < 2 or not descends or grid[-1] != 0 or grid[0] > 1:
        raise ValueError(
            f"A grid has two times or more, from at most 1 down to exactly 0, got {list(grid)}."
        )
