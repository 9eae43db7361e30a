"""Which tokens a call decides.

R rows of m blocks, flat N = R m where it says so; n places of a block are asked for, `size` is all
of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hf_ddistill.decoding.ledger import Turn
from hf_ddistill.decoding.plan import DecodingPlan
from hf_ddistill.decoding.record import Record
from hf_ddistill.decoding.window import Window
from hf_ddistill.linalg import categorical_of_logs, uniform_noise
from hf_ddistill.linalg.likeliest import likeliest
from hf_ddistill.shapes import LOG_ZERO, Generators
from hf_ddistill.unmasking import Draft
from hf_ddistill.unmasking.unmasking import even_share


@dataclass(frozen=True)
class Said:
    """What a call says of the places that it was asked for.

    Args:
        places: of each row, m n of them.
        masked: (R, m n) bool, those that are open.
        raw: (R, m n, K), log p; or logits where none is needed, see `Decider.needs`.
        logits: (R, m n, K), of the model.
        canvas: tokens (R, C), where they are real, and where one is to be decided; for sequences
            that are forbidden, else None.
    """

    places: Window
    masked: Tensor
    raw: Tensor
    logits: Tensor
    canvas: tuple[Tensor, Tensor, Tensor] | None


@dataclass
class Decider:
    """Draws tokens, and asks the unmasking rule which of them stay.

    Args:
        plan: of the decoding.
        size: tokens in a block.
        generator: one, or one for each of the B rows.
        record: gets the laws that tokens were drawn from.
    """

    plan: DecodingPlan
    size: int
    generator: Generators = None
    record: Record | None = None
    #: `raw` and the columns of the call before, for rules that compare.
    _before: tuple[Tensor, Tensor] | None = field(init=False, default=None)
    #: Rows and their generators, of the call before.
    _streams: tuple[np.ndarray, Generators] | None = field(init=False, default=None)

    def __call__(self, turn: Turn, said: Said) -> tuple[Tensor, Tensor, Tensor | None]:
        """The tokens (R, m n), which of them stay, and log p of each; None for those where all is
        certain."""
        before = self._compared(turn, said) if self.plan.unmasking.compares else None
        found: list[Tensor] = []
        for group in _groups(turn, self.plan.pipelining.max_blocks == 1):
            tokens, stays, log_p = self._decided(turn, said, before, group)
            if group.entries is None:
                return tokens, stays, log_p
            parts = [tokens, stays, *([] if log_p is None else [log_p])]
            index = torch.from_numpy(group.entries).to(tokens.device)
            shape = (turn.active.size, tokens.shape[1])
            found = found or [part.new_zeros(shape) for part in parts]
            for to, part in zip(found, parts, strict=True):
                to.index_copy_(0, index, part)
        tokens, stays, *log_p = (part.view_as(said.masked) for part in found)
        return tokens, stays, log_p[0] if log_p else None

    def needs(self, turn: Turn) -> bool:
        """Whether it looks at log p in a call, and not only at which token is the likeliest."""
        plan = self.plan
        rule = plan.unmasking.compares or plan.pipelining.max_blocks > 1
        return not turn.last or rule or bool(plan.temperature or plan.forbidden or self.record)

    def generators(self, rows: np.ndarray) -> Generators:
        """Those of some rows."""
        if not isinstance(self.generator, Sequence):
            return self.generator
        if self._streams is None or self._streams[0] is not rows:
            self._streams = rows, [self.generator[row] for row in rows]
        return self._streams[1]

    def keep(self, rows: Tensor) -> None:
        """Forget all rows but these, by their places."""
        if self._before is not None:
            self._before = tuple(x[rows] for x in self._before)

    def _decided(
        self, turn: Turn, said: Said, before: Tensor | None, group: _Group
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Of some of the N blocks: tokens, which stay, log p.

        Args:
            turn: of the call.
            said: of all rows.
            before: (R, m n, K), `raw` of the call before.
            group: which blocks.
        """
        plan, pick = self.plan, _picker(group.entries, turn.count, said.raw.device)
        raw, masked, rows = pick(said.raw), pick(said.masked), group.rows
        generators = self.generators(turn.rows if rows is None else turn.rows[rows])
        law, drawn = plan.law(raw) if plan.temperature else raw, None
        if not plan.temperature:
            drawn, tokens = likeliest(raw)
        elif said.places.at is None:
            tokens = categorical_of_logs(law, generators)
        else:
            # A number for each token of the block: how many are open must not matter.
            noise = uniform_noise((len(raw), self.size), generators, raw.device)
            noise = noise.gather(1, pick(said.places.at))
            tokens = categorical_of_logs(law, noise=noise)
        draft, stays = None, masked
        if plan.forbidden or not turn.last:
            given = {"raw": raw, "tokens": tokens, "masked": masked, "drawn": drawn}
            given["generator"] = generators
            draft = self._draft(turn, group, given, None if before is None else pick(before))
        if not turn.last and group.steps is not None:
            stays = plan.unmasking(draft)
        elif not turn.last:
            stays = (draft.confidence > plan.pipelining.confidence) & masked
        if plan.forbidden or self.record is not None:
            columns = pick(said.places.columns.expand(len(turn.rows), -1))
            rows = np.arange(len(turn.rows)) if rows is None else rows
            if plan.forbidden:
                stays = self._allowed(said, (torch.from_numpy(rows), columns), draft, stays)
            if self.record is not None:
                where = torch.from_numpy(turn.rows[rows]), columns
                scores = plan.law(raw).clamp_min(LOG_ZERO)
                self.record.add(where, stays, scores, pick(said.logits))
        log_p = law.gather(-1, tokens[..., None])[..., 0].float() if plan.temperature else None
        return tokens, stays, log_p

    def _draft(
        self, turn: Turn, group: _Group, given: dict[str, Any], before: Tensor | None
    ) -> Draft:
        """What an unmasking rule is asked about."""
        steps, device, due = group.steps, given["raw"].device, None
        if steps is None:
            steps, before = 0, None
        elif turn.due is not None:
            due = turn.due
        elif self.plan.unmasking.planned:
            due = even_share(group.of(turn.open), np.maximum(self.plan.planned - steps, 1))
            due = int(due[0]) if (due == due[0]).all() else torch.from_numpy(due).to(device)
        if isinstance(steps, np.ndarray):
            steps = torch.from_numpy(steps).to(device)
            if before is not None:
                before = before.masked_fill((steps == 0)[:, None, None], LOG_ZERO)
        elif not steps:
            before = None
        progress = turn.progress
        if progress is not None:
            progress = torch.from_numpy(progress if group.rows is None else progress[group.rows])
        return Draft(
            log_p=None,
            call=steps,
            calls=self.plan.planned,
            before=before,
            progress=progress,
            share=due,
            every=turn.full and turn.most == given["masked"].shape[1],
            **given,
        )

    def _allowed(
        self, said: Said, where: tuple[Tensor, Tensor], draft: Draft, stays: Tensor
    ) -> Tensor:
        """The tokens of those that stay (N, n) which complete nothing forbidden; what is decided
        after them in the same call sees them."""
        ids, _, open_ = said.canvas
        drawn = (draft.tokens, draft.confidence, stays)
        stays = self.plan.forbidden.kept(said.canvas, where, drawn)
        place = (where[0][:, None].to(ids.device), where[1])
        ids[place] = torch.where(stays, draft.tokens, ids[place])
        open_[place] = open_[place] & ~stays
        return stays

    def _compared(self, turn: Turn, said: Said) -> Tensor | None:
        """`raw` of the call before at the same columns, where it said something of them."""
        raw, columns = said.raw, said.places.columns.expand(len(turn.rows), -1)
        found = None
        if self._before is not None:
            old, where = self._before
            found = _moved(old, where, columns)
            if not turn.all:
                now = torch.from_numpy(turn.active).to(raw.device)
                now = now.repeat_interleave(columns.shape[1] // turn.count, 1)
                raw = torch.where(now[..., None], raw, found)
        self._before = (raw, columns)
        return found


def _moved(old: Tensor, where: Tensor, columns: Tensor) -> Tensor:
    """(R, n, K): `old` (R, o, K), which stands at the columns `where` (R, o), at other ones (R, n);
    anything at those that are not among them."""
    place = torch.searchsorted(where.contiguous(), columns.contiguous())
    place = place.clamp_max(where.shape[1] - 1)[..., None]
    return old.gather(1, place.expand(-1, -1, old.shape[-1]))


def _picker(entries: np.ndarray | None, count: int, device: torch.device):  # noqa: ANN202
    """From (R, m n, ...) to some of the N blocks, (N, n, ...)."""
    index = None if entries is None else torch.from_numpy(entries).to(device)

    def pick(values: Tensor) -> Tensor:
        if count > 1:
            values = values.unflatten(1, (count, -1)).flatten(0, 1)
        return values if index is None else values[index]

    return pick


class _Group:
    """Blocks that are decided together.

    Args:
        turn: of the call.
        entries: which of the N; None for all, of one in each row.
        steps: calls before in which they had to take a token, one number or one for each; None
            where they need not take one now, and only sure ones are taken.
    """

    def __init__(
        self, turn: Turn, entries: np.ndarray | None, steps: int | np.ndarray | None
    ) -> None:
        self.entries, self.steps = entries, steps
        #: The row of each, by its place; None for all.
        self.rows = None if entries is None else entries // turn.count

    def of(self, table: np.ndarray) -> np.ndarray:
        """(n,) of what is known of all blocks, (R, m)."""
        return table.ravel() if self.entries is None else table.ravel()[self.entries]


def _groups(turn: Turn, single: bool) -> Iterator[_Group]:
    """The blocks in work that are decided together.

    One block of each row is decided whatever their number. Of several blocks of a row those with
    fewer calls come first, so that its generator is asked in an order of its own.
    """
    if single:
        entries, steps = None if turn.all else turn.active.ravel().nonzero()[0], turn.step
        group = _Group(turn, entries, steps)
        if steps is None:
            steps = group.of(turn.steps)
            group.steps = int(steps[0]) if (steps == steps[0]).all() else steps
        yield group
        return
    active, steps = turn.active.ravel(), turn.steps.ravel()
    sure = active & turn.sure.ravel()
    for number in np.unique(steps[sure]).tolist():
        yield _Group(turn, (sure & (steps == number)).nonzero()[0], number)
    if (active & ~sure).any():
        yield _Group(turn, (active & ~sure).nonzero()[0], None)


__all__ = ["Decider", "Said"]
