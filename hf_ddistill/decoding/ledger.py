"""What the host knows of a decoding: how many tokens of each block are open, and so which blocks
the next call works on.

B rows of nb blocks, R of them in work; a row's head is its first block that is not finished.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from hf_ddistill.decoding.plan import DecodingPlan
from hf_ddistill.unmasking.unmasking import even_share

#: (rows (N,), their finished blocks (N,)) -> which of the rows end there (N,).
Check = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass
class Turn:
    """What a call works on: in each row `count` blocks.

    Args:
        rows: (R,), numbers of the rows.
        first: (R,), the first block of each.
        active: (R, count), those in work.
        sure: (R, count), those that take a token in any case.
        open: (R, count), tokens to be decided.
        called: (R, count), calls of the block so far.
        steps: (R, count), those of them at which it had to take a token.
        progress: (R,) float32, share of a row's tokens that is decided; None for a rule that does
            not look at it.
    """

    rows: np.ndarray
    first: np.ndarray
    active: np.ndarray
    sure: np.ndarray
    open: np.ndarray
    called: np.ndarray
    steps: np.ndarray
    progress: np.ndarray | None = None

    def __post_init__(self) -> None:
        self.count = self.active.shape[1]
        #: Whether all blocks are in work.
        self.all = bool(self.active.all())
        #: The most tokens that are open in a block in work.
        self.most = int((self.open * self.active).max())
        #: Whether so many are open in all blocks.
        self.full = self.all and bool((self.open == self.most).all())
        #: The calls of each block in which it had to take a token, where they are as many.
        step = int(self.steps[0, 0])
        self.step = step if bool((self.steps == step).all()) else None
        #: (R, count), the tokens that are left open, and whether a block is finished; None until
        #: that is known.
        self.left: np.ndarray | None = None
        self.ends: bool | None = None
        #: Whether all open tokens are decided, since a call decides at least one of each row, or as
        #: many as an even rule says.
        self.last = False
        #: How many tokens of each row must be decided; None if that is not known or differs.
        self.due: int | None = None

    def leaves(self, left: np.ndarray) -> None:
        """Note how many tokens it leaves open."""
        self.left = left
        self.ends = not bool((left + ~self.active).all())

    def at(self, first: np.ndarray) -> Turn:
        """The same at other blocks."""
        moved = copy.copy(self)
        moved.first = first
        return moved


class Ledger:
    """Open tokens, calls and ends of all blocks.

    Rows go on by themselves, each from block to block. Where a row that has finished a block waits
    for the others, and the rule says how many tokens a call decides, the turns of a block are made
    when it begins.

    Args:
        asked: (B, nb), the tokens to be decided.
        plan: of the decoding.
    """

    def __init__(self, asked: np.ndarray, plan: DecodingPlan) -> None:
        self.asked, self.open, self.plan = asked, asked.copy(), plan
        self.together = plan.ahead or plan.cache == "dual"
        # Calls of each block, and those of them at which it had to take a token.
        self.called, self.steps = np.zeros_like(asked), np.zeros_like(asked)
        self.ended = np.zeros(asked.shape, dtype=bool)
        self._calls, self.head = (np.zeros(len(asked), dtype=np.int64) for _ in range(2))
        self.blocks = asked.shape[1]
        #: The rows that are not finished.
        self.rows = np.arange(len(asked))
        #: Whether a block may be finished.
        self.finished = True
        self._ended = False
        # Blocks that have no tokens in some row.
        self._empty = (asked == 0).any(0)
        self._total = asked.sum(1).clip(1).astype(np.float32)
        # Turns that are known, the next one last; those of the block before; and those that were
        # taken and are not entered.
        self._known: list[Turn] = []
        self._block: list[Turn] = []
        self._taken: list[Turn] = []

    @property
    def calls(self) -> np.ndarray:
        """(B,), the calls of each row."""
        self._enter()
        return self._calls

    def turn(self) -> Turn:
        """What the next call works on."""
        if not self._known:
            self._enter()
            turn = self._turn()
            self._known = self._until_the_end(turn) if self.plan.ahead else [turn]
        return self._known.pop()

    def _turn(self) -> Turn:
        """What the next call works on, as things are."""
        rows = self.rows
        head = self.head[rows]
        first = np.full_like(head, head.min()) if self.together else head
        single = self.plan.pipelining.max_blocks == 1
        if single:
            blocks = first[:, None]
            active = sure = blocks == head[:, None]
        else:
            active, sure = self._pipelined(rows, head, first)
            count = int((active * (np.arange(self.blocks) - first[:, None] + 1)).max())
            first = np.minimum(first, self.blocks - count)
            blocks = first[:, None] + np.arange(count)
            active, sure = (np.take_along_axis(x, blocks, 1) for x in (active, sure))
        progress = None
        if self.plan.unmasking.reads_progress:
            progress = 1 - self.open[rows].sum(1).astype(np.float32) / self._total[rows]
        places = blocks + rows[:, None] * self.blocks
        state = (x.take(places) for x in (self.open, self.called, self.steps))
        turn = Turn(rows, first, active, sure, *state, progress)
        if single:
            self._ahead(turn)
        return turn

    def _ahead(self, turn: Turn) -> None:
        """Note what is known of a turn with one block of each row before its call."""
        unmasking, left = self.plan.unmasking, turn.open - 1
        due = even_share(turn.open, (self.plan.planned - turn.steps).clip(1))
        if (due == due[0]).all():
            turn.due = int(due[0, 0])
        if unmasking.even:
            left = turn.open - due
            turn.leaves(left * turn.active)
        # A rule that draws must not draw less.
        turn.last = not (unmasking.draws or (left * turn.active).any())

    def _until_the_end(self, turn: Turn) -> list[Turn]:
        """A turn and those behind it until its block is finished in all rows, the last one
        first."""
        block = self._block
        if block and block[-1].rows is turn.rows and _alike(block[-1], turn):
            return [each.at(turn.first) for each in block]
        turns = [turn]
        while (left := turn.left).any():
            active = left > 0
            turn = Turn(
                turn.rows, turn.first, active, active, left, turn.called + 1, turn.steps + 1
            )
            self._ahead(turn)
            turns.append(turn)
        self._block = turns[::-1]
        return self._block.copy()

    def record(self, turn: Turn, left: np.ndarray, ended: np.ndarray | None) -> None:
        """Note what a call did.

        Args:
            turn: what it worked on.
            left: (R, count), tokens that are open behind it.
            ended: (R, count), where an end token was drawn; None for nowhere.
        """
        if turn.left is not left:
            turn.leaves(left)
        self._taken.append(turn)
        self.finished = turn.ends
        if ended is not None:
            self.ended.ravel()[self._places(turn)] |= ended & turn.active
            self._ended = True

    def _places(self, turn: Turn) -> np.ndarray:
        """(R, count), where its blocks stand among all, one row behind the other."""
        return (turn.rows * self.blocks + turn.first)[:, None] + np.arange(turn.count)

    def _enter(self) -> None:
        """Enter what was recorded."""
        taken, self._taken = self._taken, []
        while taken:
            turn, times = taken.pop(0), 1
            while taken and turn.all and taken[0].all and taken[0].first is turn.first:
                turn, times = taken.pop(0), times + 1
            places = self._places(turn)
            self._calls[turn.rows] += times * turn.active.any(1)
            self.called.ravel()[places] += times * turn.active
            self.steps.ravel()[places] += times * (turn.sure & turn.active)
            self.open.ravel()[places] = np.where(turn.active, turn.left, turn.open)

    def advance(self, check: Check | None = None) -> np.ndarray:
        """Pass the blocks that are finished. Rows that end in one are finished; which, ascending.

        Args:
            check: asked about each finished block of a row, from left to right.
        """
        self.finished = False
        if check is None and self._pass():
            return self.rows[:0]
        self._enter()
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
            rows = rows[self.head[rows] < self.blocks]
        self._stay((self.head < self.blocks).nonzero()[0])
        return over.nonzero()[0]

    def _pass(self) -> bool:
        """Pass a block that all rows have finished, if none of them ends with it."""
        taken = self._taken
        if not (self.plan.ahead and taken and taken[-1].last) or self._ended:
            return False
        number = int(taken[0].first[0]) + 1
        if not all(turn.all for turn in taken) or number == self.blocks or self._empty[number]:
            return False
        rows, self._taken = self.rows, []
        self._calls[rows] += len(taken)
        self.open[rows, number - 1] = 0
        self.head[rows] = number
        return True

    def _stay(self, rows: np.ndarray) -> None:
        """Rows that are not finished; turns that are known hold for those that were."""
        if len(rows) < len(self.rows):
            self.rows, self._known = rows, []

    def cut(self) -> None:
        """Nothing is open any more."""
        self._enter()
        self._known, self.open[:], self.finished = [], 0, True

    def _pipelined(
        self, rows: np.ndarray, head: np.ndarray, first: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The blocks in work, and those that take a token in any case, (R, nb)."""
        pipe = self.plan.pipelining
        open_, asked = (torch.from_numpy(x[rows]) for x in (self.open, self.asked))
        share = 1 - open_ / asked.clamp_min(1)
        active = pipe.active(share, torch.from_numpy(head)).numpy()
        if self.together:
            # A row whose blocks lie farther right than those of the slowest one waits.
            active &= ~active[:, int(first[0]) + pipe.max_blocks :].any(1, keepdims=True)
        return active, pipe.activated(share).numpy()


def _alike(one: Turn, other: Turn) -> bool:
    """Whether two turns at the beginning of a block differ in nothing but the block."""
    tables = ((x.active, x.open, x.steps) for x in (one, other))
    return all((a == b).all() for a, b in zip(*tables, strict=True))


__all__ = ["Check", "Ledger", "Turn"]
