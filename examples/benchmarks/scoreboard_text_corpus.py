"""The corpus of `scoreboard_text.py`: speeches as 27 symbols, in parts that share no speech."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

#: Token i is symbol i: the space, then the letters. The mask is the token after them.
SYMBOLS = " abcdefghijklmnopqrstuvwxyz"
MASK = len(SYMBOLS)
#: Twentieths of the speeches: what teacher and students learn from, what the judge learns from,
#: what settings are chosen by, what is reported on.
SHARES = {"teacher": 11, "judge": 5, "validation": 2, "test": 2}


def normalised(text: str) -> str:
    """A text as that of text8: lower-case letters and single spaces."""
    return " ".join(re.sub(r"[^a-z]+", " ", text.lower()).split())


def encoded(text: str) -> Tensor:
    """Tokens of a normalised text."""
    return torch.tensor([SYMBOLS.index(symbol) for symbol in text])


def decoded(row: Sequence[int]) -> str:
    """The text of tokens without masks."""
    return "".join(SYMBOLS[int(token)] for token in row)


def split(speeches: Sequence[str]) -> dict[str, list[str]]:
    """Speeches by part, in turn, so that each part has its share of every time."""
    turn = [name for name, share in SHARES.items() for _ in range(share)]
    # Neighbours of a part are spread over the twenty, or a part would be five presidents in a row.
    turn = [turn[(7 * i) % len(turn)] for i in range(len(turn))]
    parts = {name: [] for name in SHARES}
    for number, speech in enumerate(speeches):
        parts[turn[number % len(turn)]].append(speech)
    return parts


@dataclass(frozen=True)
class Corpus:
    """The tokens of each part, its speeches one after another with a space between.

    Args:
        parts: int64 tokens by the name of the part.
    """

    parts: dict[str, Tensor]

    @classmethod
    def read(cls, file: Path) -> Corpus:
        """Of a file whose speeches are separated by empty lines.

        Raises:
            ValueError: if there are fewer speeches than parts can be made of.
        """
        speeches = [normalised(text) for text in file.read_text(encoding="utf8").split("\n\n")]
        speeches = list(dict.fromkeys(speech for speech in speeches if speech))
        if len(speeches) < sum(SHARES.values()):
            raise ValueError(
                f"{file} has {len(speeches)} texts separated by empty lines; the parts need "
                f"{sum(SHARES.values())}."
            )
        return cls({name: encoded(" ".join(own)) for name, own in split(speeches).items()})

    def rows(self, part: str, length: int, stride: int | None = None) -> Tensor:
        """Windows (N, length) of a part, one every `stride` tokens (default: end to end)."""
        return self.parts[part].unfold(0, length, stride or length)

    def words(self, *parts: str) -> frozenset[str]:
        """The words that occur in some parts."""
        return frozenset(word for part in parts for word in decoded(self.parts[part]).split())
