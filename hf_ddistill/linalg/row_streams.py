"""Random numbers of each row that depend on the row alone: not on its neighbours in a batch, nor on
what is padded behind it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


class RowStreams(Sequence[torch.Generator]):
    """A generator for each row, made afresh for every draw from (seed of the row, number of the
    draw).

    So a draw of (B, L) numbers leaves a row where a draw of (B, 2 L) leaves it, and begins with the
    same numbers. The generators are on the CPU, whose uniform numbers come one after another.

    Args:
        seeds: one for each row, below 2^63.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        # [seed, draws so far]; shared with the parts that `of` gives.
        self._rows = [[seed, 0] for seed in seeds]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> torch.Generator:
        """That of the row's next draw; unlike iterating, looking at it draws nothing."""
        return _generator(*self._rows[row])

    def __iter__(self) -> Iterator[torch.Generator]:
        """Those of a draw."""
        for row in self._rows:
            yield _generator(*row)
            row[1] += 1

    def of(self, rows: Tensor) -> RowStreams:
        """Those of some of the rows, given by their numbers; what is drawn there counts here."""
        part = RowStreams(())
        part._rows = [self._rows[row] for row in rows.tolist()]
        return part

    def joint(self) -> torch.Generator:
        """One for a draw that is not by rows, which then hangs on all of them."""
        seed = hash(tuple(map(tuple, self._rows)))
        for row in self._rows:
            row[1] += 1
        return _generator(seed, 0)


def _generator(seed: int, draw: int) -> torch.Generator:
    # An odd factor: the draws of a row are far apart, and each seed has its own.
    return torch.Generator().manual_seed((seed + draw * 0x9E3779B97F4A7C15) % 2**63)
