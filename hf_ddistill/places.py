"""Some of the positions of a batch, by their numbers: what a denoiser is asked about."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from hf_ddistill.shapes import Index, Where


@dataclass(frozen=True)
class Places:
    """N of the B L positions of a batch.

    To find them from Booleans waits for the device once; nothing that is done with them waits.

    Args:
        index: (N,), row * L + position of each; from `of` in row-major order.
        shape: (B, L).
    """

    index: Index
    shape: tuple[int, int]

    @classmethod
    def of(cls, where: Where | Places, count: int | None = None) -> Places:
        """Those where a Boolean (B, L) is True; what is one already, as it is. Nothing waits where
        their number is known."""
        if isinstance(where, Places):
            return where
        flat = where.flatten()
        found = flat.nonzero() if count is None else flat.nonzero_static(size=count)
        found = cls(found[:, 0], (where.shape[0], where.shape[1]))
        found.__dict__["where"] = where  # it need not be made again
        return found

    def __len__(self) -> int:
        return self.index.shape[0]

    @cached_property
    def rows(self) -> Index:
        """The row of each."""
        return self.index // max(self.shape[1], 1)

    @cached_property
    def positions(self) -> Index:
        """The position of each in its row."""
        return self.index % max(self.shape[1], 1)

    @cached_property
    def where(self) -> Where:
        """(B, L), True there."""
        none = torch.zeros(self.shape, dtype=torch.bool, device=self.index.device)
        return none.view(-1).index_fill(0, self.index, True).view(self.shape)

    def take(self, values: Tensor) -> Tensor:
        """Of values (B, L, ...) those there, (N, ...)."""
        return values.flatten(0, 1).index_select(0, self.index)

    def put(self, values: Tensor, into: Tensor) -> Tensor:
        """`into` (B, L) with `values` (N,) there, of its dtype; gradients flow."""
        values = values.to(into.dtype)
        return into.reshape(-1).index_copy(0, self.index, values).view(into.shape)


def places_of(*wheres: Where) -> list[Places]:
    """Those of several Booleans (B, L); the device is waited for once."""
    counts = torch.stack([where.sum() for where in wheres]).tolist()
    return [Places.of(where, count) for where, count in zip(wheres, counts, strict=True)]
