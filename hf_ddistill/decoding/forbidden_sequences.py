"""Sequences of tokens that a row must not hold, whatever the order in which it is decided.

A processor that sees the tokens on the left alone would let a call complete one from the right, or
several tokens of one call together. Here a position is barred from what would complete a sequence
with the tokens decided on both its sides; and of the tokens of one call that would do so together,
the surest stay.

A row is a list of tokens without its padding; `OPEN` stands for those not yet decided.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from hf_ddistill.decoding.window import Window

OPEN = -1


@dataclass(frozen=True)
class ForbiddenSequences:
    """Sequences that hold no new token.

    Args:
        words: each a sequence that must not stand in a row.
        ngram: no sequence of this length stands in a row twice; 0 for no such rule.
    """

    words: tuple[tuple[int, ...], ...] = ()
    ngram: int = 0

    @classmethod
    def of(cls, bad_words_ids: object, no_repeat_ngram_size: int | None) -> Self:
        """From settings of generation.

        Raises:
            ValueError: for words that are no lists of tokens, and a size below 0.
        """
        words = [] if bad_words_ids is None else bad_words_ids
        if not isinstance(words, list | tuple) or not all(
            isinstance(word, list | tuple)
            and word
            and all(isinstance(token, int) and token >= 0 for token in word)
            for word in words
        ):
            raise ValueError(f"bad_words_ids must be a list of lists of tokens, got {words!r}.")
        ngram = no_repeat_ngram_size or 0
        if ngram < 0:
            raise ValueError(f"no_repeat_ngram_size must be at least 0 (off), got {ngram}.")
        return cls(tuple(tuple(word) for word in words), ngram)

    def __bool__(self) -> bool:
        return bool(self.words or self.ngram)

    def change(
        self, canvas: tuple[Tensor, Tensor, Tensor], places: Window, masked: Tensor, logits: Tensor
    ) -> Tensor:
        """Logits (R, n, K), -inf for tokens that would complete one.

        Args:
            canvas: tokens (R, C), where they are real, and where one is to be decided.
            places: the n columns of each row.
            masked: (R, n) bool, those of them that are open.
            logits: (R, n, K).
        """
        logits, columns = logits.clone(), places.columns.expand_as(masked).tolist()
        for row, state in enumerate(zip(*canvas, strict=True)):
            tokens, shift = _listed(*state)
            for place in masked[row].nonzero()[:, 0].tolist():
                barred = self._completing(tokens, columns[row][place] - shift)
                logits[row, place, list(barred)] = -torch.inf
        return logits

    def kept(
        self,
        canvas: tuple[Tensor, Tensor, Tensor],
        where: tuple[Tensor, Tensor],
        drawn: tuple[Tensor, Tensor, Tensor],
    ) -> Tensor:
        """Which of a call's tokens stay, (N, n) bool: the surest first, none that completes one.

        Args:
            canvas: as for `change`.
            where: the row (N,) and the columns (N, n) of each block.
            drawn: of each block the tokens (N, n), how sure they are (N, n), and whether they
                would stay (N, n).
        """
        (rows, columns), (tokens, sure, stays) = where, drawn
        kept, found = stays.clone(), {}
        for block, row in enumerate(rows.tolist()):
            if row not in found:
                found[row] = _listed(*(x[row] for x in canvas))
            so_far, shift = found[row]
            order = sure[block].argsort(descending=True, stable=True).tolist()
            for place in (place for place in order if bool(stays[block, place])):
                position = int(columns[block, place]) - shift
                so_far[position] = int(tokens[block, place])
                if any(self._forbidden(so_far, position)):
                    so_far[position], kept[block, place] = OPEN, False
        return kept

    def _completing(self, row: list[int], position: int) -> set[int]:
        """Tokens that would complete a sequence at an open position."""
        barred = set()
        for word in self.words:
            for place, token in enumerate(word):
                around = _window(row, position - place, len(word))
                if around and all(
                    place == other or around[other] == word[other] for other in range(len(word))
                ):
                    barred.add(token)
        if self.ngram and any(
            around.count(OPEN) == 1 for around in _around(row, position, self.ngram)
        ):
            # What repeats stands in the row already.
            row, seen = list(row), self._seen(row)
            for token in set(row) - {OPEN}:
                row[position] = token
                if self._repeats(row, position, seen):
                    barred.add(token)
        return barred

    def _forbidden(self, row: list[int], position: int) -> Iterator[bool]:
        """Whether the token at a position is part of something forbidden."""
        for word in self.words:
            yield any(tuple(around) == word for around in _around(row, position, len(word)))
        if self.ngram:
            without = list(row)
            without[position] = OPEN
            yield self._repeats(row, position, self._seen(without))

    def _seen(self, row: list[int]) -> set[tuple[int, ...]]:
        size = self.ngram
        grams = (tuple(row[at : at + size]) for at in range(len(row) - size + 1))
        return {gram for gram in grams if OPEN not in gram}

    def _repeats(self, row: list[int], position: int, seen: set[tuple[int, ...]]) -> bool:
        grams = [tuple(around) for around in _around(row, position, self.ngram)]
        counted = Counter(gram for gram in grams if OPEN not in gram)
        return any(gram in seen or number > 1 for gram, number in counted.items())


def _listed(ids: Tensor, real: Tensor, open_: Tensor) -> tuple[list[int], int]:
    """A row without its padding, and the column at which it starts."""
    columns = real.nonzero()[:, 0]
    first, last = int(columns[0]), int(columns[-1])
    return torch.where(open_, OPEN, ids)[first : last + 1].tolist(), first


def _window(row: list[int], start: int, size: int) -> list[int] | None:
    return row[start : start + size] if 0 <= start <= len(row) - size else None


def _around(row: list[int], position: int, size: int) -> Iterator[list[int]]:
    """The windows of a size that hold a position."""
    for start in range(position - size + 1, position + 1):
        if (window := _window(row, start, size)) is not None:
            yield window


__all__ = ["OPEN", "ForbiddenSequences"]
