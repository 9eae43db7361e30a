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
from hf_ddistill.unmasking.unmasking import even_share

#: (rows (N,), their finished blocks (N,)) -> which of the rows end there (N,).
Check = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
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

    @property
    def rows(self) -> np.ndarray:
        """The rows that are not finished."""
        return (self.head < self.blocks).nonzero()[0]

    def turn(self) -> Turn:
        """What the next call works on."""
        rows = self.rows
        head = self.head[rows]
        first = np.full_like(head, head.min()) if self.together else head
        if self.pipelining.max_blocks == 1:
            active, count = (first == head)[:, None], 1
            sure, places = np.ones_like(active), (rows[:, None], first[:, None])
        else:
            active, sure = self._pipelined(rows, head, first)
            count = int((active * (np.arange(self.blocks) - first[:, None] + 1)).max())
            first = np.minimum(first, self.blocks - count)
            blocks = first[:, None] + np.arange(count)
            active, sure = (np.take_along_axis(x, blocks, 1) for x in (active, sure))
            places = (rows[:, None], blocks)
        asked = self.asked[rows].sum(1).clip(1).astype(np.float32)
        progress = 1 - self.open[rows].sum(1).astype(np.float32) / asked
        state = (x[places] for x in (self.open, self.called, self.steps))
        return Turn(rows, first, count, active, sure, *state, progress)

    def share(self, turn: Turn, planned: int) -> np.ndarray:
        """(R, count), tokens that an even rule leaves open.

        Args:
            turn: of the call.
            planned: calls for a block.
        """
        return turn.open - even_share(turn.open, (planned - turn.steps).clip(1))

    def record(self, turn: Turn, left: np.ndarray, ended: np.ndarray | None) -> None:
        """Note what a call did.

        Args:
            turn: what it worked on.
            left: (R, count), tokens that are open behind it.
            ended: (R, count), where an end token was drawn; None for nowhere.
        """
        places = (turn.rows[:, None], turn.first[:, None] + np.arange(turn.count))
        self.calls[turn.rows] += turn.active.any(1)
        self.called[places] += turn.active
        self.steps[places] += turn.active & turn.sure
        self.open[places] = np.where(turn.active, left, turn.open)
        if ended is not None:
            self.ended[places] |= ended & turn.active

    def advance(self, check: Check | None = None) -> np.ndarray:
        """Pass the blocks that are finished. Rows that end in one are finished; which, ascending.

        Args:
            check: asked about each finished block of a row, from left to right.
        """
        over = np.zeros(len(self.head), dtype=bool)
        while True:
            rows = self.rows
            rows = rows[self.open[rows, self.head[rows]] == 0]
            if not len(rows):
                return over.nonzero()[0]
            blocks = self.head[rows]
            ends = self.ended[rows, blocks]
            if check is not None:
                ends = ends | check(rows, blocks)
            self.head[rows] += 1
            ending = rows[ends]
            over[ending], self.head[ending], self.open[ending] = True, self.blocks, 0

    def cut(self) -> None:
        """Nothing is open any more."""
        self.open[:] = 0

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
