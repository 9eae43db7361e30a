"""What the host knows of a decoding: how many tokens of each block are open, and so which blocks
the next call works on.

B rows of nb blocks, R of them in work; a row's head is its first block that is not finished.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from hf_ddistill.decoding.pipelined import Pipelining
from hf_ddistill.unmasking import Unmasking
from hf_ddistill.unmasking.unmasking import even_share

#: (rows (N,), their finished blocks (N,)) -> which of the rows end there (N,).
Check = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass
class Turn:
    """What a call works on: in each row `count` blocks.

    Args:
        rows: (R,), numbers of the rows.
        first: (R,), the first block of each.
        count: of blocks.
        active: (R, count), those in work.
        sure: (R, count), those that take a token in any case.
        open: (R, count), tokens to be decided.
        called: (R, count), calls of the block so far.
        steps: (R, count), those of them at which it had to take a token.
        progress: (R,) float32, share of a row's tokens that is decided.
        places: (R, count), where these blocks stand among all, one row behind the other.
        left: (R, count), the tokens that an even rule leaves open.
        last: whether all open tokens are decided, since a call decides at least one of each row, or
            as many as an even rule says.
    """

    rows: np.ndarray
    first: np.ndarray
    count: int
    active: np.ndarray
    sure: np.ndarray
    open: np.ndarray
    called: np.ndarray
    steps: np.ndarray
    progress: np.ndarray
    places: np.ndarray
    left: np.ndarray | None = None
    last: bool = False


class Ledger:
    """Open tokens, calls and ends of all blocks.

    Rows go on by themselves, each from block to block; or `together`, where a row that has finished
    a block waits for the others.

    Args:
        asked: (B, nb), the tokens to be decided.
        pipelining: which blocks are in work.
        together: see above.
    """

    def __init__(self, asked: np.ndarray, pipelining: Pipelining, together: bool) -> None:
        self.asked, self.open = asked, asked.copy()
        self.pipelining, self.together = pipelining, together
        # Calls of each block, and those of them at which it had to take a token.
        self.called, self.steps = np.zeros_like(asked), np.zeros_like(asked)
        self.ended = np.zeros(asked.shape, dtype=bool)
        self.calls, self.head = (np.zeros(len(asked), dtype=np.int64) for _ in range(2))
        self.blocks = asked.shape[1]
        #: The rows that are not finished.
        self.rows = np.arange(len(asked))
        self._finished = True  # whether a block may be
        self._total = asked.sum(1).clip(1).astype(np.float32)

    def turn(self, unmasking: Unmasking, planned: int) -> Turn:
        """What the next call works on.

        Args:
            unmasking: decides it.
            planned: calls for a block.
        """
        rows = self.rows
        head = self.head[rows]
        first = np.full_like(head, head.min()) if self.together else head
        if self.pipelining.max_blocks == 1:
            active, count, blocks = (first == head)[:, None], 1, first[:, None]
            sure = active
        else:
            active, sure = self._pipelined(rows, head, first)
            count = int((active * (np.arange(self.blocks) - first[:, None] + 1)).max())
            first = np.minimum(first, self.blocks - count)
            blocks = first[:, None] + np.arange(count)
            active, sure = (np.take_along_axis(x, blocks, 1) for x in (active, sure))
        progress = 1 - self.open[rows].sum(1).astype(np.float32) / self._total[rows]
        places = blocks + rows[:, None] * self.blocks
        state = (x.take(places) for x in (self.open, self.called, self.steps))
        turn = Turn(rows, first, count, active, sure, *state, progress, places)
        if self.pipelining.max_blocks > 1:
            return turn
        left = turn.open - 1
        if unmasking.even:
            left = turn.left = turn.open - even_share(turn.open, (planned - turn.steps).clip(1))
        # A rule that draws must not draw less.
        turn.last = not (unmasking.draws or (left * active).any())
        return turn

    def record(self, turn: Turn, left: np.ndarray, ended: np.ndarray | None) -> None:
        """Note what a call did.

        Args:
            turn: what it worked on.
            left: (R, count), tokens that are open behind it.
            ended: (R, count), where an end token was drawn; None for nowhere.
        """
        self._finished = not (left * turn.active + ~turn.active).all()
        self.calls[turn.rows] += turn.active.any(1)
        for table, more in ((self.called, turn.active), (self.steps, turn.sure & turn.active)):
            table.ravel()[turn.places] += more
        self.open.ravel()[turn.places] = np.where(turn.active, left, turn.open)
        if ended is not None:
            self.ended.ravel()[turn.places] |= ended & turn.active

    def advance(self, check: Check | None = None) -> np.ndarray:
        """Pass the blocks that are finished. Rows that end in one are finished; which, ascending.

        Args:
            check: asked about each finished block of a row, from left to right.
        """
        if not self._finished:
            return self.rows[:0]
        over = np.zeros(len(self.head), dtype=bool)
        rows = self.rows
        while len(rows):
            rows = rows[self.open[rows, self.head[rows]] == 0]
            if not len(rows):
                break
            blocks = self.head[rows]
            ends = self.ended[rows, blocks]
            if check is not None:
                ends = ends | check(rows, blocks)
            self.head[rows] += 1
            ending = rows[ends]
            over[ending], self.head[ending], self.open[ending] = True, self.blocks, 0
            self.rows = (self.head < self.blocks).nonzero()[0]
            rows = rows[self.head[rows] < self.blocks]
        return over.nonzero()[0]

    def cut(self) -> None:
        """Nothing is open any more."""
        self.open[:], self._finished = 0, True

    def _pipelined(
        self, rows: np.ndarray, head: np.ndarray, first: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The blocks in work, and those that take a token in any case, (R, nb)."""
        pipe = self.pipelining
        open_, asked = (torch.from_numpy(x[rows]) for x in (self.open, self.asked))
        share = 1 - open_ / asked.clamp_min(1)
        active = pipe.active(share, torch.from_numpy(head)).numpy()
        if self.together:
            # A row whose blocks lie farther right than those of the slowest one waits.
            active &= ~active[:, int(first[0]) + pipe.max_blocks :].any(1, keepdims=True)
        return active, pipe.activated(share).numpy()


__all__ = ["Check", "Ledger", "Turn"]
