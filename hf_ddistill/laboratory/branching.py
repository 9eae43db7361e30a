"""Every outcome of code that draws, with its probability, by running the code itself.

It is run with a `Branches` in the place of its generator. At the first draw that nothing has been
decided on it is stopped, each row is put in as often as that draw has outcomes, and it is run
again, the draws so far repeated; so on until no draw is open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from hf_ddistill.shapes import Chooser

Result = TypeVar("Result")

#: The most branches that are followed.
MOST = 2**22


@dataclass(frozen=True)
class Pasts:
    """Branches, with what each has drawn so far.

    Args:
        start: (R,), the row of the batch that it came from.
        weight: (R,) float64, the weight of that row by the probability of what has been drawn.
        drawn: (R, D), tokens in the order in which they were drawn; what is behind the last is 0.
        known: (R,), how many they are.
    """

    start: Tensor
    weight: Tensor
    drawn: Tensor
    known: Tensor

    @classmethod
    def none(cls, weight: Tensor) -> Pasts:
        """One branch for each weight, with nothing drawn."""
        start = torch.arange(len(weight))
        return cls(start, weight, start.new_zeros(len(weight), 0), torch.zeros_like(start))

    def __len__(self) -> int:
        return len(self.start)

    def of(self, rows: Tensor) -> Pasts:
        """Some of the branches."""
        return Pasts(self.start[rows], self.weight[rows], self.drawn[rows], self.known[rows])

    def with_draw(self, weight: Tensor, tokens: Tensor) -> Pasts:
        """The same with tokens (R, n) drawn next, and other weights."""
        width = int(self.known.max()) + tokens.shape[1]
        more = max(0, width - self.drawn.shape[1])
        drawn = torch.nn.functional.pad(self.drawn, (0, more))
        places = self.known[:, None] + torch.arange(tokens.shape[1])
        return Pasts(
            self.start, weight, drawn.scatter(1, places, tokens), self.known + tokens.shape[1]
        )

    def joined(self, other: Pasts) -> Pasts:
        """Both."""
        width = max(self.drawn.shape[1], other.drawn.shape[1])
        drawn = [
            torch.nn.functional.pad(p.drawn, (0, width - p.drawn.shape[1])) for p in (self, other)
        ]
        return Pasts(
            torch.cat([self.start, other.start]),
            torch.cat([self.weight, other.weight]),
            torch.cat(drawn),
            torch.cat([self.known, other.known]),
        )


class Branches(Chooser):
    """Repeats what each row of a batch has drawn, and asks for more rows where that ends.

    Args:
        pasts: one for each row.
        most: branches; at a draw with more it gives up.

    Raises:
        ValueError: from `choose`, if there are more branches than that, or distributions that are
            not one for each row.
    """

    def __init__(self, pasts: Pasts, most: int) -> None:
        self._rows = torch.arange(len(pasts))
        self._run = _Run(pasts, torch.zeros_like(pasts.known), most)

    def __len__(self) -> int:
        return len(self._rows)

    def of(self, rows: Tensor) -> Branches:
        """Those of some of the rows; what is drawn there counts here."""
        part = object.__new__(Branches)
        part._rows, part._run = self._rows[rows], self._run
        return part

    def choose(self, probs: Tensor) -> Tensor:
        """The tokens (R, ...) that the rows' pasts hold."""
        if len(probs) != len(self):
            raise ValueError(
                f"Got {len(probs)} distributions for {len(self)} rows: where draws are enumerated, "
                "each belongs to a row (`categorical_at`, `generators_of`)."
            )
        laws = probs.detach().double().flatten(1, -2) if probs.ndim > 2 else probs.double()[:, None]
        return self._run.next(self._rows, laws).view(probs.shape[:-1])


@dataclass
class _Run:
    """One run of the code: the pasts of all rows, and how far each has been read."""

    pasts: Pasts
    read: Tensor
    most: int

    def next(self, rows: Tensor, laws: Tensor) -> Tensor:
        """The next tokens (r, n) of some rows, whose laws (r, n, K) are used where none is known
        yet."""
        count = laws.shape[1]
        new = self.read[rows] == self.pasts.known[rows]
        if count and bool(new.any()):
            self._decide(rows[new], laws[new])
        places = self.read[rows, None] + torch.arange(count)
        self.read[rows] += count
        return self.pasts.drawn[rows[:, None], places]

    def _decide(self, rows: Tensor, laws: Tensor) -> None:
        """What is certain is noted; for anything else the run is over."""
        total = (laws > 0).sum(-1).double().prod(-1).sum()
        others = torch.ones(len(self.pasts), dtype=torch.bool)
        others[rows] = False
        if float(total) + len(self.pasts) > self.most:
            raise ValueError(
                f"An exact law follows at most {MOST:,} branches of a sampler's draws, and "
                f"one draw makes {float(total):,.0f}: take fewer positions, tokens or steps."
            )
        entry, weight, tokens = _outcomes(laws / laws.sum(-1, keepdim=True))
        chosen = self.pasts.of(rows[entry])
        decided = chosen.with_draw(chosen.weight * weight, tokens)
        if len(entry) > len(rows):
            raise _Open(decided.joined(self.pasts.of(others.nonzero()[:, 0])))
        order = torch.cat([rows, others.nonzero()[:, 0]]).argsort()
        self.pasts = decided.joined(self.pasts.of(others.nonzero()[:, 0])).of(order)


class _Open(Exception):
    """A draw has several outcomes: the run is to be begun again with these pasts."""

    def __init__(self, pasts: Pasts) -> None:
        super().__init__()
        self.pasts = pasts


def _outcomes(laws: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of products of laws (r, n, K): the row (m,), probability (m,) and tokens (m, n) of each
    outcome that is possible."""
    entry, weight = torch.arange(len(laws)), laws.new_ones(len(laws))
    tokens = entry.new_zeros(len(laws), 0)
    for place in range(laws.shape[1]):
        options = laws[entry, place]
        parent, token = (options > 0).nonzero(as_tuple=True)
        weight = weight[parent] * options[parent, token]
        tokens = torch.cat([tokens[parent], token[:, None]], 1)
        entry = entry[parent]
    return entry, weight, tokens


def outcomes(
    run: Callable[[Tensor, Branches], Result], weight: Tensor, size: int
) -> Iterator[tuple[Tensor, Result]]:
    """What code makes of every outcome of its draws: (weights (R,), what it returned) of batches.

    Args:
        run: (rows (R,), generator) -> anything, for a batch whose row i is number rows[i] of those
            that it starts from; called again and again, so that it must not change anything.
        weight: (N,) float64, of what it starts from.
        size: rows of a batch, at most.

    Raises:
        ValueError: if there are more than `MOST` branches, and as `Branches`.
    """
    pending = [Pasts.none(weight)]
    ended = 0
    while pending:
        pasts = pending.pop()
        if len(pasts) > size:
            pending += [pasts.of(rows) for rows in torch.arange(len(pasts)).split(size)]
            continue
        waiting = sum(map(len, pending))
        generator = Branches(pasts, MOST - ended - waiting)
        try:
            result = run(pasts.start, generator)
        except _Open as open_:
            pending.append(open_.pasts)
            continue
        ended += len(pasts)
        yield pasts.weight, result
