"""Which columns of a canvas a call is about: in each row a range of the same width, at a place of
its own.

A canvas is (R, C), R rows of C columns.
"""

from __future__ import annotations

import copy
from typing import Self

import numpy as np
import torch
from torch import Tensor


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

    def __init__(
        self,
        rows: np.ndarray,
        starts: np.ndarray,
        width: int,
        device: torch.device,
        at: Tensor | None = None,
    ) -> None:
        self.rows, self.starts, self.width, self.device = rows, starts, width, device
        self.at = at
        #: The whole range that this is a part of.
        self.whole: Window = self
        first = int(starts[0])
        #: The column at which all rows start; None where they do not start at one.
        self.shared = first if len(starts) == 1 or (starts == first).all() else None
        self._columns: Tensor | None = None
        # Canvases and the slices of them that it is.
        self._slices: list[tuple[Tensor, Tensor]] = []

    def narrowed(self, at: Tensor) -> Self:
        """Some places (R, n) of the range."""
        part = copy.copy(self)
        part.at, part._columns = at, None
        return part

    @property
    def columns(self) -> Tensor:
        """The columns that are asked for, int64 (1 or R, n)."""
        if self._columns is None:
            first = self.shared
            if first is None:
                first = torch.from_numpy(self.starts).to(self.device)[:, None]
            places = self.at
            if places is None:
                places = torch.arange(self.width, device=self.device)[None]
            self._columns = places + first
        return self._columns

    def rows_of(self, table: Tensor) -> Tensor:
        """(R, ...) of what holds of all rows that are decoded, (B, ...)."""
        if len(self.rows) == len(table):
            return table
        return table[torch.from_numpy(self.rows).to(self.device)]

    def of(self, canvas: Tensor) -> Tensor:
        """What stands there in a canvas (R, C), (R, n)."""
        if self.shared is None:
            return canvas.gather(1, self.columns)
        part = canvas[:, self.shared : self.shared + self.width]
        return part if self.at is None else part.gather(1, self.at)

    def kept(self, canvas: Tensor) -> Tensor:
        """The same of a canvas that is asked for call after call: slices of it are kept."""
        if self.shared is None or self.at is not None:
            return self.of(canvas)
        for known, part in self._slices:
            if known is canvas:
                return part
        part = self.of(canvas)
        self._slices.append((canvas, part))
        return part

    def put(self, canvas: Tensor, values: Tensor) -> None:
        """Write values (R, n) there."""
        if self.shared is None:
            canvas.scatter_(1, self.columns, values)
        elif self.at is None:
            self.kept(canvas).copy_(values)
        else:
            self.whole.kept(canvas).scatter_(1, self.at, values)

    def add(self, canvas: Tensor, values: Tensor) -> None:
        """Add values (R, n) to what stands there."""
        if self.shared is None:
            canvas.scatter_add_(1, self.columns, values.to(canvas.dtype))
        else:
            self.kept(canvas).add_(values)


__all__ = ["Window"]
