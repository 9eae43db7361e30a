"""The loop of block diffusion: blocks from left to right, the calls of a block until none of its
tokens is masked, keys and values of finished blocks kept.

The first call of a block also reads the block before, now finished, into the cache: a block costs
no call beyond those that decide its tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache
from transformers.generation import BaseStreamer

from hf_ddistill.linalg import categorical
from hf_ddistill.models.block_prompts import Decoded, Prompts
from hf_ddistill.shapes import LOG_ZERO, Generators
from hf_ddistill.sharpening import sharpened
from hf_ddistill.unmasking import Draft, Threshold, Unmasking


@dataclass(frozen=True)
class DecodingPlan:
    """How blocks are decoded.

    Args:
        block_size: tokens in a block.
        unmasking: which drawn tokens of a call stay.
        steps_per_block: calls that a rule with a plan has for a block; None for one token a call.
        temperature: of the draws; 0 takes the likeliest token.
        top_k: of the draws; None for all.
        top_p: of the draws.
        use_cache: keep keys and values of finished blocks; the tokens are the same without.
        eos: tokens that end a row with their block.
    """

    block_size: int
    unmasking: Unmasking = field(default_factory=Threshold)
    steps_per_block: int | None = None
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float = 1.0
    use_cache: bool = True
    eos: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name, least in (("block_size", 1), ("steps_per_block", 1), ("temperature", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}.")


def decode(
    model: Any,  # noqa: ANN401 (a BlockDiffusionLM, perhaps wrapped by PEFT)
    prompts: Prompts,
    new: int,
    plan: DecodingPlan,
    generator: Generators = None,
    streamer: BaseStreamer | None = None,
) -> Decoded:
    """Decode `new` tokens behind each prompt, and what is missing to whole blocks.

    Raises:
        ValueError: if prompt and new tokens do not fit into the model's window.
    """
    work = _Work(model, prompts.room(new), plan, generator)
    window = model.config.max_position_embeddings
    longest = int(work.real.sum(1).max())
    if window is not None and longest > window:
        raise ValueError(
            f"Prompt and new tokens make {longest} positions in whole blocks of "
            f"{plan.block_size}, and the model reads {window}; shorten the prompt or "
            "max_new_tokens."
        )
    if streamer is not None:
        streamer.put(prompts.sources[0].cpu())
    for start in range(prompts.start, work.ids.shape[1], plan.block_size):
        block = slice(start, start + plan.block_size)
        while bool(work.open[:, block].any()):
            work.call(block)
            if streamer is not None and hasattr(streamer, "put_draft"):
                streamer.put_draft(work.ids[:, block].cpu())
        work.finish(block)
        if streamer is not None:
            streamer.put(work.ids[0, block][work.rounds[0, block] >= 0].cpu())
        if bool(work.ended.all()):
            break
    if streamer is not None:
        streamer.end()
    return Decoded(work.ids, work.rounds, work.real, work.calls)


class _Work:
    """The state of a decoding."""

    def __init__(
        self, model: Any, prompts: Prompts, plan: DecodingPlan, generator: Generators
    ) -> None:
        self.model, self.plan, self.generator = model, plan, generator
        self.ids, self.real, self.mask = prompts.ids.clone(), prompts.real, prompts.fill
        self.open = self.real & ~prompts.given
        self.open[:, : prompts.start] = False
        self.rounds = torch.full_like(self.ids, -1)
        self.calls = torch.zeros(len(self.ids), dtype=torch.int64, device=self.ids.device)
        self.ended = torch.zeros_like(self.calls, dtype=torch.bool)
        self.asked = int(self.open.sum(1).max())
        self.cache = DynamicCache() if plan.use_cache else None
        self.number, self.before = 0, None

    def call(self, block: slice) -> None:
        """One network call, and the tokens that it decides in a block."""
        plan = self.plan
        raw = self._look(block)
        rows = self.open[:, block].any(1).nonzero()[:, 0]
        log_p = sharpened(raw[rows], plan.temperature, plan.top_k, plan.top_p)
        chosen = self._generators(rows)
        tokens = categorical(log_p.exp(), chosen) if plan.temperature else log_p.argmax(-1)
        draft = Draft(
            log_p,
            raw[rows],
            tokens,
            self.open[rows, block],
            self.number,
            plan.steps_per_block or plan.block_size,
            None if self.before is None else self.before[rows],
            1 - float(self.open.sum()) / max(self.asked * len(self.ids), 1),
            chosen,
        )
        stays = plan.unmasking(draft)
        ids, rounds = self.ids[rows, block], self.rounds[rows, block]
        self.ids[rows, block] = torch.where(stays, tokens, ids)
        self.rounds[rows, block] = rounds.masked_fill(stays, self.number)
        self.open[rows, block] = draft.masked & ~stays
        self.calls[rows] += 1
        self.number, self.before = self.number + 1, raw

    def finish(self, block: slice) -> None:
        """End the rows that drew an end token in the block: nothing behind it counts."""
        self.number, self.before = 0, None
        drawn = self.rounds[:, block] >= 0
        ends = torch.isin(self.ids[:, block], torch.tensor(self.plan.eos, device=self.ids.device))
        ends = ends & drawn
        behind = ends.long().cumsum(1) - ends.long() > 0
        self.rounds[:, block] = self.rounds[:, block].masked_fill(behind, -1)
        self.ended |= ends.any(1)
        self.open[self.ended, block.stop :] = False

    def _look(self, block: slice) -> Tensor:
        """log p (B, b, K) of the tokens of a block."""
        # A shifted head reads a block's first token at the end of the block before.
        kept = max(block.start - int(self.model.config.shift_logits), 0)
        cached = 0 if self.cache is None else self.cache.get_seq_length()
        columns = torch.arange(block.stop, device=self.ids.device)
        where = torch.zeros_like(self.ids[:, cached : block.stop], dtype=torch.bool)
        where[:, block.start - cached :] = True
        logits = self.model(
            input_ids=self.ids[:, cached : block.stop],
            attention_mask=self.real[:, : block.stop],
            at=where,
            block_size=self.plan.block_size,
            columns=columns,
            past_key_values=self.cache,
        ).logits
        if self.cache is not None:
            self.cache.crop(kept - block.stop)
        logits = logits.float().unflatten(0, where.shape[:1] + (-1,))
        return logits.index_fill(
            -1, torch.tensor([self.mask], device=logits.device), LOG_ZERO
        ).log_softmax(-1)

    def _generators(self, rows: Tensor) -> Generators:
        if isinstance(self.generator, Sequence):
            return [self.generator[row] for row in rows.tolist()]
        return self.generator
