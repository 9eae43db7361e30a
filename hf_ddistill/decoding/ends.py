"""Where a row ends for another reason than an end token: strings that stop it, and the caller's
criteria."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hf_ddistill.decoding.plan import Criterion


@dataclass(frozen=True)
class StopStrings:
    """Ends a row with the token that completes a string of its text.

    It goes by the text as it is decoded, special tokens included. (`StopStringCriteria` goes by the
    pieces of a vocabulary, and fails with one that has no word for its probe.)

    Args:
        tokenizer: decodes the row.
        strings: that end it.
    """

    tokenizer: PreTrainedTokenizerBase
    strings: tuple[str, ...]

    def __call__(self, ids: Tensor, scores: None) -> Tensor:
        now, before = (self.tokenizer.decode(row) for row in (ids[0], ids[0, :-1]))
        return torch.tensor([any(now.count(text) > before.count(text) for text in self.strings)])


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


__all__ = ["StopStrings", "stopped"]
