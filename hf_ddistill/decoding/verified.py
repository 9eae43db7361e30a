"""Block decoding whose law is a causal language model's: the model drafts what is left of a block,
its base verifies the draft from left to right.

The base is the same network read as a causal model, its adapters off: where these are all that was
trained, the language model that they were trained on. B rows, C columns of a canvas, b tokens in a
block.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers.generation import BaseStreamer

from hf_ddistill.decoding.ends import stopped
from hf_ddistill.decoding.plan import DecodingPlan
from hf_ddistill.decoding.processing import Processing, ProxySteering, changes
from hf_ddistill.decoding.prompts import Decoded, Prompts
from hf_ddistill.decoding.reading import BlockReader
from hf_ddistill.decoding.window import Window
from hf_ddistill.linalg import categorical, generators_of, normal_noise, verify_drafts
from hf_ddistill.shapes import Generators


class CausalBase:
    """A model as its base is: read causally, adapters off; the first token behind a prompt is read
    at the prompt's last, as of a shifted head.

    Args:
        model: a `BlockDiffusionLM`, whose layers may have adapters.
    """

    def __init__(self, model: Any) -> None:  # noqa: ANN401 (a BlockDiffusionLM, perhaps wrapped)
        self.model, self.config = model, _Shifted()

    def __call__(self, **given: Any) -> Any:  # noqa: ANN401 (a model's output)
        with adapters_off(self.model):
            return self.model(**given, causal=True)


class _Shifted:
    shift_logits, causal_context = True, False


@contextlib.contextmanager
def adapters_off(model: torch.nn.Module) -> Iterator[None]:
    """Within it the layers of a model do without the adapters that they have."""
    adapted = [
        layer
        for layer in model.modules()
        if hasattr(layer, "enable_adapters") and getattr(layer, "disable_adapters", None) is False
    ]
    for layer in adapted:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in adapted:
            layer.enable_adapters(True)


def decode_verified(
    model: Any,  # noqa: ANN401 (a BlockDiffusionLM, perhaps with adapters)
    prompts: Prompts,
    new: int,
    plan: DecodingPlan,
    generator: Generators = None,
    *,
    streamer: BaseStreamer | None = None,
    processors: Any = None,  # noqa: ANN401 (one or many)
    on_call: Callable[[int, Decoded], bool] | None = None,
) -> Decoded:
    """Decode `new` tokens behind each prompt with the law of the model's base, at the plan's
    temperature, top-k and top-p (0: its likeliest tokens).

    A round is two calls. The model drafts all but the last of the tokens that are left of a row's
    block, in one call; the base reads them, causally, in another; `verify_drafts` keeps those from
    the left that it lets stand and draws the next from what the base says there. So a round gives
    between 1 and b tokens, and one that has a single token left of its block takes the base alone.
    Both keep keys and values of what will not change; those of a draft are computed anew. Each row
    goes on by itself, and leaves both batches when it is finished.

    References: Leviathan et al., 2022, arXiv:2211.17192; with a block-diffusion draft that is the
    verifier with adapters, Uno, 2026, arXiv:2609.04010.

    Args:
        model: that drafts.
        prompts: what is decoded behind.
        new: how many tokens.
        plan: how they are drawn; its unmasking rule and pipelining are not asked.
        generator: of the draws; one, or one for each row.
        streamer: gets the tokens of a single row as they are kept.
        processors: change the logits of both, see `changes`.
        on_call: called behind each round with its number and what is decoded, which it must not
            change; True ends decoding as if its time were up.

    Raises:
        ValueError: for an empty prompt, a prompt with which the new tokens pass the model's window,
            and settings that have no meaning from left to right.
    """
    if not bool(prompts.sources[1].any(1).all()):
        raise ValueError(
            "A prompt is empty, and the base that verifies reads each token from those before it; "
            "start with a token, such as that of the beginning of a sequence."
        )
    check_verified(plan, processors)
    work = _Work(model, prompts, new, plan, generator, processors)
    window, longest = model.config.max_position_embeddings, int(work.real.sum(1).max())
    if window is not None and longest > window:
        raise ValueError(
            f"Prompt and new tokens make {longest} positions in whole blocks of "
            f"{prompts.block_size}, and the model reads {window}; shorten the prompt or "
            "max_new_tokens (of rollouts in training: prompt_length, or their tokens)."
        )
    source, came = prompts.sources
    if streamer is not None:
        streamer.put(source[0][came[0]][None].cpu())
    started, number = time.monotonic(), 0
    while len(rows := work.rows()):
        decided = work.round(rows)
        if streamer is not None:
            streamer.put(decided[decided >= 0].cpu())
        ended = on_call is not None and on_call(number, work.decoded())
        number += 1
        if ended or time.monotonic() - started > plan.max_time:
            break
    if streamer is not None:
        streamer.end()
    return work.decoded()


def check_verified(plan: DecodingPlan, processors: Any) -> None:  # noqa: ANN401
    """Raise for what would make another law of the base's, or none."""
    many = processors if isinstance(processors, list | tuple) else [processors]
    refused = {
        "repetition_penalty": plan.logits.repetition_penalty != 1.0,
        "bad_words_ids and no_repeat_ngram_size": bool(plan.forbidden),
        "ProxySteering": any(isinstance(each, ProxySteering) for each in many),
        "dual_cache": plan.cache == "dual",
        "max_active_blocks": plan.pipelining.max_blocks > 1,
    }
    for name, asked in refused.items():
        if asked:
            raise ValueError(
                f"verify_with_base=True draws from the law of the base, one token after another, "
                f"and does not act on {name}; leave it out."
            )


class _Work:
    """The state of a decoding."""

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
        canvas, asked = prompts.room(new, self.size), prompts.asked(new)
        self.ids, self.real, self.mask = canvas.ids.clone(), canvas.real, prompts.fill
        self.open = torch.zeros_like(self.real).scatter(1, asked, True)
        self.rounds, self.number = torch.full_like(self.ids, -1), torch.zeros_like(self.ids[:, 0])
        self.log_prob = torch.zeros(self.ids.shape, device=self.ids.device)
        self.calls = torch.zeros_like(self.number)
        self.draft = BlockReader(model, self.real, plan.block_size, plan.cache)
        self.base = BlockReader(CausalBase(model), self.real, 1, plan.cache)
        steps = plan.logits.changes(asked, self.real, self.mask)
        steps += changes(processors, self.draft)
        self.processing = Processing(plan, steps, self.real, self.mask)

    def decoded(self) -> Decoded:
        """What has come out."""
        return Decoded(self.ids, self.rounds, self.real, self.calls, self.log_prob)

    def rows(self) -> np.ndarray:
        """The rows that have something open."""
        self._open = self.open.cpu().numpy()
        return self._open.any(1).nonzero()[0]

    def round(self, rows: np.ndarray) -> Tensor:
        """A draft and its verification in the rows that have something open; the tokens that are
        decided, (n, b), -1 behind them."""
        device, open_, number = self.ids.device, self._open[rows], np.arange(self.size)
        head = open_.argmax(1)
        block = (head - self.start) // self.size * self.size + self.start
        left = np.minimum(open_.sum(1), block + self.size - head)
        where = head[:, None] + np.minimum(number, left[:, None] - 1)
        index, places, count = (torch.from_numpy(x).to(device) for x in (rows, where, left - 1))
        ids, drafting = self.ids[index], (left > 1).nonzero()[0]
        tokens, law = places.new_zeros(len(rows), self.size - 1), None
        if len(drafting):
            drafted = torch.from_numpy(drafting).to(device)
            noise = self._noise(index, drafted, torch.from_numpy(block).to(device))
            span = Window(rows, block, self.size, device)
            said = self._said(self.draft, ids, span, places[:, :-1], noise)
            law = self._law(said[drafted])
            tokens[drafted] = categorical(law, generators_of(self.generator, index[drafted]))
            there = torch.from_numpy(number[:-1] < left[:, None] - 1).to(device)
            kept = ids.gather(1, places[:, :-1])
            ids = ids.scatter(1, places[:, :-1], torch.where(there, tokens, kept))
        width = int(left.max())
        span = Window(rows, np.minimum(head, ids.shape[1] - width), width, device)
        p = self._law(self._said(self.base, ids, span, places))
        q = p.new_zeros(len(rows), self.size - 1, p.shape[-1])
        if law is not None:
            q[drafted] = law
            self.calls[index[drafted]] += 1
        self.calls[index] += 1
        kept, last = verify_drafts(tokens, q, p, count, generators_of(self.generator, index))
        decided = pad(tokens, (0, 1)).scatter(1, kept[:, None], last[:, None])
        taken = torch.from_numpy(number).to(device) <= kept[:, None]
        decided = decided.masked_fill(~taken, -1)
        log_p = p.gather(-1, decided.clamp_min(0)[..., None])[..., 0].log()
        return self._put(index, places, decided, log_p, kept == count)

    def _put(
        self, rows: Tensor, places: Tensor, decided: Tensor, log_p: Tensor, whole: Tensor
    ) -> Tensor:
        """Enter what a round has decided at its places (n, b); what stands behind an end is
        dropped, and the row open no more.

        Args:
            rows: (n,).
            places: (n, b), columns.
            decided: (n, b), -1 where nothing is.
            log_p: (n, b), of these.
            whole: (n,), the rows whose block this ends.
        """
        taken = decided >= 0
        where = rows[:, None].expand_as(taken)[taken], places[taken]
        self.ids[where], self.log_prob[where] = decided[taken], log_p[taken].to(self.log_prob)
        self.open[where] = False
        eos = torch.tensor(self.plan.eos, dtype=torch.int64, device=rows.device)
        ends = torch.isin(decided, eos) & taken
        if self.plan.criteria:
            for number, row in enumerate(rows.tolist()):
                new = places[number][taken[number]].tolist()
                column = stopped(self.plan.criteria, self.ids[row], self.real[row], new)
                if column is not None:
                    ends[number] |= (places[number] == column) & taken[number]
        behind = ends.long().cumsum(1) - ends.long() > 0
        numbers = self.number[rows, None].expand_as(taken).masked_fill(behind, -1)
        self.rounds[where] = numbers[taken]
        self.number[rows] = (self.number[rows] + 1) * ~whole
        self.open[rows[ends.any(1)]] = False
        return decided.masked_fill(behind, -1)

    def _said(
        self,
        reader: BlockReader,
        ids: Tensor,
        span: Window,
        places: Tensor,
        noise: Tensor | None = None,
    ) -> Tensor:
        """log p (n, m, K) of a reader at some columns (n, m) of a span of each row."""
        starts = torch.from_numpy(span.starts)[:, None].to(places.device)
        asked = span.narrowed(places - starts)
        logits = reader(ids, asked, noise).double()
        said = self.processing(ids, asked, asked.of(asked.rows_of(self.open)), logits)
        self.processing.check()
        return said

    def _law(self, said: Tensor) -> Tensor:
        """The laws (n, m, K) that tokens are drawn from, float64."""
        return self.plan.law(said.log_softmax(-1)).exp()

    def _noise(self, rows: Tensor, drafted: Tensor, block: Tensor) -> Tensor | None:
        """(n, b, noise_dim) for the block of each row, fresh at the open columns of those that are
        drafted, 0 at others; None for a model without a noise input."""
        width = self.draft.model.config.noise_dim
        if not width:
            return None
        shape = (len(drafted), self.size, width)
        fresh = normal_noise(shape, generators_of(self.generator, rows[drafted]))
        noise = torch.zeros(len(rows), *shape[1:], device=rows.device)
        noise[drafted] = fresh.to(noise)
        columns = block[:, None] + torch.arange(self.size, device=rows.device)
        return noise * self.open[rows].gather(1, columns)[..., None]
