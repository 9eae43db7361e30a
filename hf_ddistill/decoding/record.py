"""What the tokens of a decoding were drawn from, kept for those who ask.

B rows, n new tokens, K vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Record:
    """The law that each token was drawn from, and the model's logits at that call.

    Args:
        wanted: the names of what is kept, of "scores" (log p) and "logits".
    """

    wanted: tuple[str, ...]
    _kept: dict[str, dict[tuple[int, int], Tensor]] = field(default_factory=dict)

    def add(self, where: tuple[Tensor, Tensor], stays: Tensor, log_p: Tensor, said: Tensor) -> None:
        """Keep what a call decided.

        Args:
            where: row (N,) and columns (N, n) of each block.
            stays: (N, n), the tokens that are decided.
            log_p: (N, n, K), the laws.
            said: (N, n, K), the logits.
        """
        rows, columns = (part.tolist() for part in where)
        for name, values in (("scores", log_p), ("logits", said)):
            if name not in self.wanted:
                continue
            kept = self._kept.setdefault(name, {})
            for block, place in stays.nonzero().tolist():
                kept[rows[block], columns[block][place]] = values[block, place].clone()

    def of(self, name: str, columns: Tensor, counts: Tensor) -> tuple[Tensor, ...]:
        """What was kept under a name: for each new token, (B, K), 0 where it does not count.

        Args:
            name: "scores" or "logits".
            columns: (B, n), of the new tokens.
            counts: (B, n) bool.
        """
        kept = self._kept[name]
        empty = torch.zeros_like(next(iter(kept.values())))
        places = zip(columns.tolist(), counts.tolist(), strict=True)
        table = [
            [
                kept[row, column] if real else empty
                for column, real in zip(of_row, real_row, strict=True)
            ]
            for row, (of_row, real_row) in enumerate(places)
        ]
        return tuple(torch.stack(tokens) for tokens in zip(*table, strict=True))


__all__ = ["Record"]
