"""The loop of block diffusion: blocks from left to right, the calls of a block until none of its
tokens is masked, keys and values of finished blocks kept.

The first call of a block also reads the block before, now finished, into the cache: a block costs
no call beyond those that decide its tokens. With `Pipelining` several blocks of a row are in work;
a row whose blocks lie farther right than those of the slowest row waits, and what it decides does
not depend on that.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.generation import BaseStreamer

from hf_ddistill.decoding.ends import stopped
from hf_ddistill.decoding.plan import DecodingPlan
from hf_ddistill.decoding.processing import Processing, changes
from hf_ddistill.decoding.prompts import Decoded, Prompts
from hf_ddistill.decoding.reading import BlockReader
from hf_ddistill.decoding.record import Record
from hf_ddistill.linalg import categorical, normal_noise
from hf_ddistill.shapes import Generators
from hf_ddistill.unmasking import Draft


def decode(
    model: Any,  # noqa: ANN401 (a BlockDiffusionLM, perhaps wrapped by PEFT)
    prompts: Prompts,
    new: int,
    plan: DecodingPlan,
    generator: Generators = None,
    *,
    streamer: BaseStreamer | None = None,
    processors: Any = None,  # noqa: ANN401 (one or many)
    record: Record | None = None,
    on_call: Callable[[int, Tensor], bool] | None = None,
) -> Decoded:
    """Decode `new` tokens behind each prompt, and what is missing to whole blocks.

    Args:
        model: whose tokens are decoded.
        prompts: what they are decoded behind.
        new: how many.
        plan: how.
        generator: of the draws; one, or one for each row.
        streamer: gets what is decided of a single row.
        processors: change the logits, see `changes`.
        record: gets the laws that tokens were drawn from.
        on_call: called behind each network call with its number and the canvas (B, C), which it
            must not change; True ends decoding as if its time were up.

    Raises:
        ValueError: if prompt and new tokens do not fit into the model's window, for an empty
            prompt before a shifted head, for logits that are NaN or infinite, and where settings
            or processors leave no token for a position.
    """
    if model.config.shift_logits and not bool(prompts.sources[1].any(1).all()):
        raise ValueError(
            "A prompt is empty, and a shifted head reads each token from the one before it; start "
            "with a token, such as that of the beginning of a sequence."
        )
    work = _Work(model, prompts, new, plan, generator, processors)
    work.record, started = record, time.monotonic()
    window = model.config.max_position_embeddings
    longest = int(work.real.sum(1).max())
    if window is not None and longest > window:
        raise ValueError(
            f"Prompt and new tokens make {longest} positions in whole blocks of "
            f"{prompts.block_size}, and the model reads {window}; shorten the prompt or "
            "max_new_tokens."
        )
    if streamer is not None:
        source, came = prompts.sources
        streamer.put(source[0][came[0]][None].cpu())
    shown = work.finish()
    while shown < work.blocks:
        work.call()
        work.number += 1
        stopped = on_call is not None and on_call(work.number - 1, work.ids)
        if stopped or time.monotonic() - started > plan.max_time:
            work.cut()
        finished = work.finish()
        if streamer is not None:
            _show(streamer, work, shown, finished)
        shown = finished
    if streamer is not None:
        streamer.end()
    return Decoded(work.ids, work.rounds, work.real, work.calls, work.log_prob)


def _show(streamer: BaseStreamer, work: _Work, shown: int, finished: int) -> None:
    """Give a streamer the blocks of the only row that were finished, or how those in work look."""
    wanted, size = work.wanted[0], work.size
    if finished > shown:
        done = slice(work.start + shown * size, work.start + finished * size)
        drawn = wanted[done] & (work.rounds[0, done] >= 0)
        streamer.put(work.ids[0, done][drawn].cpu())
    elif hasattr(streamer, "put_draft"):
        part = slice(work.start + shown * size, work.stop)
        streamer.put_draft(work.ids[0, part][wanted[part]].cpu())


class _Work:
    """The state of a decoding: blocks of `size` columns from `start` on."""

    def __init__(
        self,
        model: Any,
        prompts: Prompts,
        new: int,
        plan: DecodingPlan,
        generator: Generators,
        processors: Any,
    ) -> None:
        self.plan, self.generator, self.start = plan, generator, prompts.start
        self.size = plan.sub_block_size or plan.block_size
        canvas = prompts.room(new, self.size)
        self.ids, self.real, self.mask = canvas.ids.clone(), canvas.real, prompts.fill
        rows, device = len(self.ids), self.ids.device
        self.rounds = torch.full_like(self.ids, -1)
        self.log_prob = torch.zeros(self.ids.shape, device=device)
        open_ = self.real & ~canvas.given
        open_[:, : self.start] = False
        self.wanted = torch.zeros_like(open_).scatter(1, prompts.asked(new), True)
        # Views: (B, blocks, size).
        self.tokens, self.numbers, self.said, self.open = (
            x[:, self.start :].unflatten(1, (-1, self.size))
            for x in (self.ids, self.rounds, self.log_prob, open_)
        )
        self.blocks = self.open.shape[1]
        self.asked = self.open.sum(2)
        # Calls of each block, and those of them at which it had to take a token.
        self.called, self.steps = torch.zeros_like(self.asked), torch.zeros_like(self.asked)
        self.calls = torch.zeros(rows, dtype=torch.int64, device=device)
        self.head = torch.zeros_like(self.calls)
        self.stop = self.start
        self.reader = BlockReader(model, self.real, plan.block_size, plan.cache)
        steps = plan.logits.changes(prompts.asked(new), self.real, self.mask)
        steps += changes(processors, self.reader)
        self.processing = Processing(plan, steps, self.real, self.mask)
        self.number, self.record = 0, None
        self.progress = torch.zeros(rows, device=device)
        self.before: dict[int, Tensor] = {}

    def call(self) -> None:
        """One network call, and the tokens that it decides in the blocks in work."""
        pipe, first = self.plan.pipelining, int(self.head.min())
        share = 1 - self.open.sum(2) / self.asked.clamp_min(1)
        active, last = pipe.active(share, self.head), first + pipe.max_blocks
        active &= ~active[:, last:].any(1, keepdim=True)
        rows, blocks = active.nonzero(as_tuple=True)
        last = int(blocks.max()) + 1
        self.stop = self.start + last * self.size
        noise = self._noise(rows, blocks, first, last - first)
        said, raw = (
            logits.unflatten(1, (-1, self.size))
            for logits in self._look(self.start + first * self.size, self.stop, noise)
        )
        self.progress = 1 - self.open.sum((1, 2)) / self.asked.sum(1).clamp_min(1)
        sure, steps = pipe.activated(share)[rows, blocks], self.steps[rows, blocks]
        groups = [sure & (steps == number) for number in steps[sure].unique().tolist()]
        for group in [*groups, ~sure]:
            if bool(group.any()):
                here = (rows[group], blocks[group])
                stays, log_p = self._decide(raw, first, *here, forced=bool(sure[group][0]))
                if self.record is not None:
                    self.record.add(here, stays, log_p, said[here[0], here[1] - first])
        self.calls[rows.unique()] += 1
        self.called[rows, blocks] += 1
        self.steps[rows, blocks] += sure.long()
        self._remember(raw, active, first)

    def finish(self) -> int:
        """End the blocks that have no masks left, and the rows that drew an end token in one:
        nothing behind it counts. Returns how many blocks are finished in all rows."""
        eos = torch.tensor(self.plan.eos, dtype=torch.int64, device=self.ids.device)
        for block in range(int(self.head.min()), self.blocks):
            if block > int(self.head.max()):
                break
            rows = ((self.head == block) & ~self.open[:, block].any(1)).nonzero()[:, 0]
            self.head[rows] += 1
            numbers = self.numbers[rows, block]
            ends = torch.isin(self.tokens[rows, block], eos) & (numbers >= 0)
            if self.plan.criteria:
                behind = self.start + block * self.size
                ends = ends | stopped(
                    self.plan.criteria, self.ids, self.real, rows, behind, numbers
                )
            behind = ends.long().cumsum(1) - ends.long() > 0
            self.numbers[rows, block] = numbers.masked_fill(behind, -1)
            over = rows[ends.any(1)]
            self.open[over, block + 1 :] = False
            self.numbers[over, block + 1 :] = -1
        return int(self.head.min())

    def cut(self) -> None:
        """End each row before its first open token: no further call is made."""
        open_ = self.open.flatten(1)
        behind = open_.long().cumsum(1) > 0
        self.rounds[:, self.start :][behind] = -1
        self.open[:] = False

    def _decide(
        self, raw: Tensor, first: int, rows: Tensor, blocks: Tensor, *, forced: bool
    ) -> tuple[Tensor, Tensor]:
        """Decide tokens in N blocks that had to take a token equally often before: where (N, size),
        and the laws (N, size, K) that they were drawn from.

        Args:
            raw: (B, blocks from `first` on, size, K), log p.
            first: block that `raw` starts with.
            rows: (N,).
            blocks: (N,).
            forced: whether at least one token is decided, by the rule, or only sure ones are.
        """
        plan, number = self.plan, int(self.steps[rows[0], blocks[0]])
        raw = raw[rows, blocks - first]
        log_p = plan.law(raw)
        chosen = self._generators(rows)
        tokens = categorical(log_p.exp(), chosen) if plan.temperature else log_p.argmax(-1)
        before = None
        if forced and number:
            pairs = zip(rows.tolist(), blocks.tolist(), strict=True)
            before = torch.stack([self.before[block][row] for row, block in pairs])
        draft = Draft(
            log_p,
            raw,
            tokens,
            self.open[rows, blocks],
            number,
            plan.steps_per_block or self.size,
            before,
            self.progress[rows],
            chosen,
        )
        if forced:
            stays = plan.unmasking(draft)
        else:
            stays = (draft.confidence > plan.pipelining.confidence) & draft.masked
        if plan.forbidden:
            columns = torch.arange(self.size, device=blocks.device)
            where = rows, self.start + blocks[:, None] * self.size + columns
            open_ = self._open_columns()
            drawn = tokens, draft.confidence, stays
            stays = plan.forbidden.kept(self.ids, self.real, open_, where, drawn)
        self.tokens[rows, blocks] = torch.where(stays, tokens, self.tokens[rows, blocks])
        said = log_p.gather(-1, tokens[..., None])[..., 0].to(self.said)
        self.said[rows, blocks] = torch.where(stays, said, self.said[rows, blocks])
        called = self.called[rows, blocks][:, None]
        self.numbers[rows, blocks] = torch.where(stays, called, self.numbers[rows, blocks])
        self.open[rows, blocks] = draft.masked & ~stays
        return stays, log_p

    def _remember(self, raw: Tensor, active: Tensor, first: int) -> None:
        """Keep what was said of each block when it was last decided on."""
        kept = {block: said for block, said in self.before.items() if block >= first}
        for block in range(first, first + raw.shape[1]):
            said, old, now = raw[:, block - first], kept.get(block), active[:, block]
            if old is not None and not bool(now.all()):
                said = torch.where(now[:, None, None], said, old)
            kept[block] = said
        self.before = kept

    def _noise(self, rows: Tensor, blocks: Tensor, first: int, count: int) -> Tensor | None:
        """(B, count * size, noise_dim), fresh at the open positions in work, 0 at others; None for
        a model without a noise input."""
        width = self.reader.model.config.noise_dim
        if not width:
            return None
        device = self.ids.device
        fresh = normal_noise((len(rows), self.size, width), self._generators(rows), device).float()
        noise = torch.zeros(len(self.ids), count, self.size, width, device=device)
        noise[rows, blocks - first] = fresh * self.open[rows, blocks][..., None]
        return noise.flatten(1, 2)

    def _look(self, start: int, stop: int, noise: Tensor | None) -> tuple[Tensor, Tensor]:
        """What the model says of a range of columns, (B, stop - start, K), and log p of their
        tokens."""
        said = self.reader(self.ids, start, stop, noise)
        return said, self.processing(self.ids, self._open_columns(), start, said)

    def _open_columns(self) -> Tensor:
        """(B, C), where a token is to be decided."""
        return torch.nn.functional.pad(self.open.flatten(1), (self.start, 0))

    def _generators(self, rows: Tensor) -> Generators:
        if isinstance(self.generator, Sequence):
            return [self.generator[row] for row in rows.tolist()]
        return self.generator
