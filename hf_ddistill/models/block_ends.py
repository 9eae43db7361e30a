"""Where a row ends for another reason than an end token: strings that stop it, and the caller's
criteria."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hf_ddistill.models.decoding_plan import Criterion


def stopped(
    criteria: Sequence[Criterion],
    ids: Tensor,
    real: Tensor,
    rows: Tensor,
    start: int,
    numbers: Tensor,
) -> Tensor:
    """The first new token of a finished block with which a criterion ends its row, (N, size) bool.

    Each row is asked about by itself, without padding, and from token to token, as transformers
    would ask.

    Args:
        criteria: that end a row.
        ids: (B, C).
        real: (B, C) bool, False at padding.
        rows: (N,), those whose block is finished.
        start: first column of the block.
        numbers: (N, size), the call that decided a token; below 0 where none is new.
    """
    found = torch.zeros_like(numbers, dtype=torch.bool)
    for place, row in enumerate(rows.tolist()):
        for offset in (numbers[place] >= 0).nonzero()[:, 0].tolist():
            behind = start + offset + 1
            so_far = ids[row, :behind][real[row, :behind]][None]
            if any(bool(torch.as_tensor(ends(so_far, None)).all()) for ends in criteria):
                found[place, offset] = True
                break
    return found


__all__ = ["stopped"]
