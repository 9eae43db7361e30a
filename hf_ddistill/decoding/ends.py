"""Where a row ends for another reason than an end token: strings that stop it, and the caller's
criteria."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
    criteria: Sequence[Criterion], ids: Tensor, real: Tensor, new: Iterable[int]
) -> int | None:
    """The column of the first new token with which a criterion ends a row; None for none.

    A row is asked about by itself, without padding, and from token to token, as transformers would
    ask.

    Args:
        criteria: that end a row.
        ids: (C,).
        real: (C,) bool, False at padding.
        new: columns of the new tokens, ascending.
    """
    for column in new:
        so_far = ids[: column + 1][real[: column + 1]][None]
        if any(bool(torch.as_tensor(ends(so_far, None)).all()) for ends in criteria):
            return column
    return None


__all__ = ["StopStrings", "stopped"]
