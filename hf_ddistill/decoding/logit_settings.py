"""What settings of `generate` do to the logits of a call, before the caller's own processors.

R rows, of B that are decoded, of a canvas of C columns, n of them asked for in each; K tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import (
    InfNanRemoveLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
)

from hf_ddistill.decoding.window import Window

#: (ids (R, C), the n places of each row, logits (R, n, K)) -> logits
Change = Callable[[Tensor, Window, Tensor], Tensor]


@dataclass(frozen=True)
class LogitSettings:
    """Settings that bar tokens at some of the new positions, or change their logits.

    Args:
        suppress: tokens that are never decided.
        suppress_first: tokens that are not the first new one.
        min_new: so many new tokens are none of `eos`.
        forced_last: the last new token is one of these; none for any.
        eos: tokens that end a row.
        repetition_penalty: of transformers' processor, on all tokens that a row has.
        sequence_bias: of transformers' processor; None for none.
        remove_invalid: replace NaN and infinite logits.
    """

    suppress: tuple[int, ...] = ()
    suppress_first: tuple[int, ...] = ()
    min_new: int = 0
    forced_last: tuple[int, ...] = ()
    eos: tuple[int, ...] = ()
    repetition_penalty: float = 1.0
    sequence_bias: Any = None
    remove_invalid: bool = False

    def changes(self, asked: Tensor, real: Tensor, mask: int) -> list[Change]:
        """The steps from a model's logits on, in transformers' order.

        Args:
            asked: (B, new), the columns of each row's new tokens.
            real: (B, C) bool, False at padding.
            mask: the mask token.
        """
        found: list[Change] = []
        if self.remove_invalid:
            found.append(partial(_everywhere, InfNanRemoveLogitsProcessor()))
        if self.sequence_bias is not None:
            found.append(partial(by_column, SequenceBiasLogitsProcessor(self.sequence_bias), real))
        if self.repetition_penalty != 1.0:
            penalty = RepetitionPenaltyLogitsProcessor(self.repetition_penalty)
            found.append(partial(_of_the_row, penalty, real, mask=mask))
        columns = torch.arange(real.shape[1], device=asked.device)
        number = columns - asked[:, :1]  # of each new token, from 0
        last = number == asked.shape[1] - 1
        bars = (
            (self.eos, (number >= 0) & (number < self.min_new)),
            (self.suppress, number >= 0),
            (self.suppress_first, number == 0),
        )
        found += [partial(_barred, tokens, where) for tokens, where in bars if tokens]
        if self.forced_last:
            found.append(partial(_only, self.forced_last, last))
        return found


def by_column(
    processor: Callable[[Tensor, Tensor], Tensor],
    real: Tensor,
    ids: Tensor,
    places: Window,
    logits: Tensor,
) -> Tensor:
    """Each place as if its token were the next one: a processor is given the tokens before it,
    masks where they are not decided, without padding, so that no row depends on its batch."""
    logits, columns = logits.clone(), places.columns.expand(len(ids), -1)
    before = places.rows_of(real).long().cumsum(1) - places.rows_of(real).long()
    lengths = before.gather(1, columns)
    for place in range(columns.shape[1]):
        for length in lengths[:, place].unique().tolist():
            rows = (lengths[:, place] == length).nonzero()[:, 0]
            behind = columns[rows, place, None]
            index = behind - length + torch.arange(length, device=ids.device)
            tokens = ids[rows].gather(1, index)
            logits[rows, place] = processor(tokens, logits[rows, place])
    return logits


def _barred(
    tokens: Sequence[int], where: Tensor, ids: Tensor, places: Window, logits: Tensor
) -> Tensor:
    """`tokens` cannot be decided at the columns of `where` (B, C)."""
    barred = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device)
    barred[list(tokens)] = True
    here = places.of(places.rows_of(where))
    return logits.masked_fill(here[..., None] & barred, -torch.inf)


def _only(
    tokens: Sequence[int], where: Tensor, ids: Tensor, places: Window, logits: Tensor
) -> Tensor:
    others = [token for token in range(logits.shape[-1]) if token not in set(tokens)]
    return _barred(others, where, ids, places, logits)


def _everywhere(
    processor: Callable[[Tensor, Tensor], Tensor], ids: Tensor, places: Window, logits: Tensor
) -> Tensor:
    """A processor that looks at the logits alone."""
    flat = logits.flatten(0, 1)
    return processor(flat.new_zeros((len(flat), 0), dtype=torch.int64), flat).view_as(logits)


def _of_the_row(
    processor: Callable[[Tensor, Tensor], Tensor],
    real: Tensor,
    ids: Tensor,
    places: Window,
    logits: Tensor,
    *,
    mask: int,
) -> Tensor:
    """A processor to which the order of a row's tokens says nothing: it is given all of them.
    Padding counts as masked, and a mask is never drawn."""
    known = ids.masked_fill(~places.rows_of(real), mask).repeat_interleave(logits.shape[1], 0)
    return processor(known, logits.flatten(0, 1)).view_as(logits)


__all__ = ["Change", "LogitSettings", "by_column"]
