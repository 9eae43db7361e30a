"""The state of a decoding, and what a call changes in it.

B rows, R of them in work, in blocks of `size` columns of a canvas of C columns; a call decides
tokens in m blocks of each row. Which blocks these are the host knows (`Ledger`): once a call it
asks the device how many tokens were decided, and not at all where the unmasking rule says so
before.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from hf_ddistill.decoding.deciding import Decider, Said
from hf_ddistill.decoding.ends import stopped
from hf_ddistill.decoding.ledger import Ledger, Turn
from hf_ddistill.decoding.plan import DecodingPlan
from hf_ddistill.decoding.processing import Processing, changes
from hf_ddistill.decoding.prompts import Decoded, Prompts
from hf_ddistill.decoding.reading import BlockReader
from hf_ddistill.decoding.record import Record
from hf_ddistill.decoding.window import Window
from hf_ddistill.linalg import normal_noise
from hf_ddistill.shapes import Generators


class Work:
    """A decoding on its way; rows leave it when they are finished.

    Args:
        model: whose tokens are decoded.
        prompts: what they are decoded behind.
        new: how many.
        plan: how.
        generator: of the draws; one, or one for each row.
        processors: change the logits, see `changes`.
        record: gets the laws that tokens were drawn from.
    """

    def __init__(
        self,
        model: Any,  # noqa: ANN401 (a BlockDiffusionLM, perhaps wrapped)
        prompts: Prompts,
        new: int,
        plan: DecodingPlan,
        generator: Generators = None,
        processors: Any = None,  # noqa: ANN401 (one or many)
        record: Record | None = None,
    ) -> None:
        self.plan, self.start, self.mask = plan, prompts.start, prompts.fill
        self.size = plan.sub_block_size or plan.block_size
        canvas = prompts.room(new, self.size)
        self.ids, self.real = canvas.ids.clone(), canvas.real
        # The calls at which a token was still a mask, but one: what `rounds` says where it is none.
        self.rounds = torch.full_like(self.ids, -1)
        self.log_prob = torch.zeros(self.ids.shape, device=self.ids.device)
        #: The same for all rows, those in work as they were when one left the last time.
        self.all = (self.ids, self.rounds, self.log_prob)
        self.rows, self.stop = np.arange(len(self.ids)), self.start
        open_ = (canvas.real & ~canvas.given)[:, self.start :].unflatten(1, (-1, self.size))
        self.wanted = torch.zeros_like(canvas.real).scatter(1, prompts.asked(new), True)
        # Where all new blocks are whole, what is open is what is a mask.
        self.whole = bool(canvas.real[:, self.start :].all())
        self.ledger = Ledger(open_.sum(2).cpu().numpy(), plan)
        self.reader = BlockReader(model, self.real, plan.block_size, plan.cache)
        steps = plan.logits.changes(prompts.asked(new), self.real, self.mask)
        steps += changes(processors, self.reader)
        self.processing = Processing(plan, steps, self.real, self.mask)
        self.decider = Decider(plan, self.size, generator, record)
        self._eos = torch.tensor(plan.eos, dtype=torch.int64, device=self.ids.device)
        self._nothing = torch.tensor(self.mask, device=self.ids.device)
        self._window: tuple[Turn, Window] | None = None
        self._true: dict[tuple[int, int], Tensor] = {}
        self._shown = 0
        self._ended: list[Tensor] = []

    @property
    def blocks(self) -> int:
        """Blocks of each row."""
        return self.ledger.blocks

    def call(self) -> None:
        """One network call, and the tokens that it decides."""
        turn = self.ledger.turn()
        window = self._of(turn)
        places, open_, noise = self._asked(turn, window)
        logits = self.reader(self.ids, places, noise)
        said = logits.clone() if self.decider.record is not None else logits
        raw = self.processing(self.ids, places, open_, logits, self.decider.needs(turn))
        canvas = self.processing.canvas(self.ids.clone(), places) if self.plan.forbidden else None
        tokens, stays, log_p = self.decider(turn, Said(places, open_, raw, said, canvas))
        if not (turn.full and turn.last and stays is open_):
            # What is not open stays.
            every = turn.full and turn.most == tokens.shape[1] // turn.count
            new = torch.where(stays, tokens, self._nothing if every else places.of(self.ids))
        else:
            new = tokens
        places.put(self.ids, new)
        if log_p is not None:
            places.put(self.log_prob, torch.where(stays, log_p, places.of(self.log_prob)))
        self._note(turn, open_, tokens, stays)

    def finish(self) -> int:
        """End the blocks that have no masks left, and the rows that drew an end token in one:
        nothing behind it counts. Returns how many blocks are finished in all rows."""
        if not self.ledger.finished:
            return self._shown
        if self._shown == 0:
            self.processing.check()
        over = self.ledger.advance(self._criteria if self.plan.criteria else None)
        if len(over):
            index = torch.from_numpy(np.searchsorted(self.rows, over)).to(self.ids.device)
            rounds = self.rounds[index]
            ends = torch.isin(self.ids[index], self._eos) & (rounds >= 0)
            behind = ends.long().cumsum(1) - ends.long() > 0
            self.rounds[index] = rounds.masked_fill(behind, -1)
        self._leave()
        self._shown = int(self.ledger.head.min())
        if self._shown == self.blocks:
            self.processing.check()
        return self._shown

    def cut(self) -> None:
        """End each row before its first open token: no further call is made."""
        real = self.real if len(self.rows) == len(self.real) else self.real[self._index()]
        behind = ((self.ids == self.mask) & real).long().cumsum(1) > 0
        self.rounds.masked_fill_(behind, -1)
        if self._ended:
            turn = self.ledger.turn()
            self.ledger.ended[turn.rows[:, None], turn.first[:, None]] |= self._ends()
        self.ledger.cut()

    def decoded(self) -> Decoded:
        """What has come out."""
        self._store()
        ids, rounds, log_prob = self.all
        rounds = rounds.masked_fill(ids == self.mask, -1)
        calls = torch.from_numpy(self.ledger.calls).to(ids.device)
        return Decoded(ids, rounds, self.real, calls, log_prob)

    def _of(self, turn: Turn) -> Window:
        """The columns of a turn; those of the call before where nothing has moved."""
        if self._window is not None:
            last, window = self._window
            same = last.first is turn.first and last.rows is turn.rows
            if last.count == turn.count and (same or _same(last, turn)):
                return window
        starts, width = self.start + turn.first * self.size, turn.count * self.size
        window = Window(turn.rows, starts, width, self.ids.device)
        self._window, self.stop = (turn, window), int(starts.max()) + width
        return window

    def _asked(self, turn: Turn, window: Window) -> tuple[Window, Tensor, Tensor | None]:
        """The places that the head is asked for, which of them are open, and the model's noise.

        Of one block these are the open ones, in each row as many as in the one with the most.
        """
        every = self.plan.pipelining.max_blocks > 1 or self.plan.unmasking.draws
        if turn.full and turn.most == self.size:
            open_ = self._all(len(turn.rows), window.width)
        else:
            open_ = window.kept(self.ids) == self.mask
            if not self.whole:
                open_ &= window.of(window.rows_of(self.real))
        waiting = open_
        if turn.count > 1 and not turn.all:
            active = torch.from_numpy(turn.active).to(open_.device)
            waiting = open_ & active.repeat_interleave(self.size, 1)
        window.add(self.rounds, waiting)
        noise = self._noise(turn, open_)
        if every or turn.most == window.width:
            return window, open_, noise
        open_, at = open_.sort(dim=1, descending=True, stable=True)
        if turn.full:
            open_ = self._all(len(turn.rows), turn.most)
        else:
            open_ = open_[:, : turn.most]
        return window.narrowed(at[:, : turn.most]), open_, noise

    def _all(self, rows: int, width: int) -> Tensor:
        """(rows, width) of True."""
        if (rows, width) not in self._true:
            self._true[rows, width] = torch.ones(rows, width, dtype=torch.bool).to(self.ids.device)
        return self._true[rows, width]

    def _noise(self, turn: Turn, open_: Tensor) -> Tensor | None:
        """(R, m size, noise_dim), fresh at the open places of blocks in work, 0 at others; None for
        a model without a noise input."""
        width = self.reader.model.config.noise_dim
        if not width:
            return None
        entries = turn.active.ravel().nonzero()[0]
        generators = self.decider.generators(turn.rows[entries // turn.count])
        shape = (len(entries), self.size, width)
        fresh = normal_noise(shape, generators, open_.device).float()
        noise = torch.zeros(turn.active.size, *shape[1:], device=open_.device)
        noise[torch.from_numpy(entries).to(open_.device)] = fresh
        return noise.view(*open_.shape, width) * open_[..., None]

    def _note(self, turn: Turn, masked: Tensor, tokens: Tensor, stays: Tensor) -> None:
        """Tell the ledger what a call did, which asks the device only where it must."""
        ended = None
        if len(self._eos):
            ended = (torch.isin(tokens, self._eos) & stays).unflatten(1, (turn.count, -1)).any(2)
        if self.plan.ahead:
            if ended is not None:
                self._ended.append(ended)
            over = ended is not None and turn.ends
            self.ledger.record(turn, turn.left, self._ends() if over else None)
            return
        counts = (masked & ~stays).unflatten(1, (turn.count, -1)).sum(2)
        both = counts[None] if ended is None else torch.stack([counts, ended.long()])
        counts, *ends = both.cpu().numpy()
        self.ledger.record(turn, counts, ends[0] > 0 if ends else None)

    def _ends(self) -> np.ndarray:
        """(R, 1), the rows that drew an end token in this block."""
        ended = torch.stack(self._ended).any(0).cpu().numpy()
        self._ended = []
        return ended

    def _criteria(self, rows: np.ndarray, blocks: np.ndarray) -> np.ndarray:
        """The rows that a criterion ends in a finished block; nothing behind it counts."""
        ends = np.zeros(len(rows), dtype=bool)
        for number, (row, block) in enumerate(zip(rows.tolist(), blocks.tolist(), strict=True)):
            place, first = int(np.searchsorted(self.rows, row)), self.start + block * self.size
            drawn = self.rounds[place, first : first + self.size] >= 0
            new = (first + drawn.nonzero()[:, 0]).tolist()
            column = stopped(self.plan.criteria, self.ids[place], self.real[row], new)
            if column is not None:
                self.rounds[place, column + 1 :], ends[number] = -1, True
        return ends

    def _leave(self) -> None:
        """Let the rows go that are finished."""
        rows = self.ledger.rows
        if len(rows) == len(self.rows) or not len(rows):
            return
        self._store()
        index = torch.from_numpy(np.searchsorted(self.rows, rows)).to(self.ids.device)
        self.ids, self.rounds, self.log_prob = (
            x[index] for x in (self.ids, self.rounds, self.log_prob)
        )
        self.decider.keep(index)
        self.rows = rows

    def _store(self) -> None:
        """Write the rows in work among all rows."""
        if len(self.rows) < len(self.real):
            now = (self.ids, self.rounds, self.log_prob)
            for every, part in zip(self.all, now, strict=True):
                every[self._index()] = part

    def _index(self) -> Tensor:
        return torch.from_numpy(self.rows).to(self.ids.device)


def _same(one: Turn, other: Turn) -> bool:
    """Whether two turns are about the same blocks."""
    rows = len(one.rows) == len(other.rows) and (one.rows == other.rows).all()
    return bool(rows) and bool((one.first == other.first).all())


__all__ = ["Work"]
