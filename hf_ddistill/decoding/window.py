"""Which columns of a canvas a call is about: in each row a range of the same width, at a place of
its own.

A canvas is (R, C), R rows of C columns.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Window:
    """`width` columns of each row, or some of them.

    Where all rows start at the same column, they are a slice, and nothing is sent to the device.

    Args:
        rows: (R,) int64, the numbers of the rows among all that are decoded, ascending.
        starts: (R,) int64, the first column of each.
        width: of the range.
        device: of the canvas.
        at: (R, n), the places within the range that are asked for; None for all of them.
    """

    rows: np.ndarray
    starts: np.ndarray
    width: int
    device: torch.device
    at: Tensor | None = None

    def narrowed(self, at: Tensor | None) -> Self:
        """Some places (R, n) of the range."""
        return replace(self, at=at)

    @cached_property
    def shared(self) -> int | None:
        """The column at which all rows start; None where they do not start at one."""
        first = int(self.starts[0])
        return first if len(self.starts) == 1 or (self.starts == first).all() else None

    @cached_property
    def columns(self) -> Tensor:
        """The columns that are asked for, int64 (1 or R, n)."""
        if self.shared is not None:
            first = self.shared
            if self.at is not None:
                return self.at + first
            return torch.arange(first, first + self.width, device=self.device)[None]
        starts = torch.from_numpy(self.starts).to(self.device)[:, None]
        places = self.at
        if places is None:
            places = torch.arange(self.width, device=self.device)
        return starts + places

    def rows_of(self, table: Tensor) -> Tensor:
        """(R, ...) of what holds of all rows that are decoded, (B, ...)."""
        if len(self.rows) == len(table):
            return table
        return table[torch.from_numpy(self.rows).to(self.device)]

    def of(self, canvas: Tensor) -> Tensor:
        """What stands there in a canvas (R, C, ...) or (1, C): (R or 1, n, ...)."""
        if self.shared is not None and self.at is None:
            return canvas[:, self.shared : self.shared + self.width]
        index = self.columns.expand(max(len(self.rows), len(canvas)), -1)
        return canvas.expand(len(index), -1).gather(1, index)

    def put(self, canvas: Tensor, values: Tensor) -> None:
        """Write values (R, n) there."""
        if self.shared is not None and self.at is None:
            canvas[:, self.shared : self.shared + self.width].copy_(values)
        else:
            canvas.scatter_(1, self.columns.expand_as(values), values)


__all__ = ["Window"]
