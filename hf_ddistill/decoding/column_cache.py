"""Keys and values of a canvas, each in the place of its column.

R rows, C columns, H heads of width D.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from hf_ddistill.decoding.window import Window


class ColumnCache(Cache):
    """A cache in which a call writes the columns that it computes, and reads all up to the last.

    What lies behind a row's own blocks is not settled; the attention mask hides it. Rows can stand
    at different columns, nothing is copied when one is added, and the shapes hang on C alone.

    Args:
        columns: C.
    """

    def __init__(self, columns: int) -> None:
        super().__init__(layers=[])
        self._columns, self._stop = columns, 0
        self._window: Window | None = None
        self._places: Tensor | None = None
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}

    def computes(self, window: Window, stop: int) -> None:
        """Say which columns the next call computes, and that it reads all before `stop`."""
        self._window, self._places, self._stop = window, None, stop
        if window.shared is None:
            rows = torch.arange(len(window.rows), device=window.device)[:, None] * self._columns
            self._places = (window.columns + rows).flatten()

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """The columns that the next call reads."""
        return self._stop

    def update(
        self,
        key_states: Tensor,
        value_states: Tensor,
        layer_idx: int,
        *args: Any,  # noqa: ANN401 (as the base)
        **kwargs: Any,  # noqa: ANN401
    ) -> tuple[Tensor, Tensor]:
        """Write keys and values (R, H, n, D) of the columns in work; all of (R, H, columns, D)."""
        given = (key_states, value_states)
        if layer_idx not in self._kept:
            # 0 and not what the memory holds: what is hidden must be finite.
            self._kept[layer_idx] = tuple(
                x.new_zeros(len(x), self._columns, x.shape[1], x.shape[3]) for x in given
            )
        for kept, states in zip(self._kept[layer_idx], given, strict=True):
            new = states.transpose(1, 2)
            if self._places is None:
                first = self._window.shared
                kept[:, first : first + new.shape[1]] = new
            else:
                kept.flatten(0, 1).index_copy_(0, self._places, new.flatten(0, 1))
        keys, values = (x[:, : self._stop].transpose(1, 2) for x in self._kept[layer_idx])
        return keys, values

    def keep(self, rows: Tensor) -> None:
        """Keep some of the rows, by their places."""
        self._kept = {layer: tuple(x[rows] for x in kept) for layer, kept in self._kept.items()}


__all__ = ["ColumnCache"]
