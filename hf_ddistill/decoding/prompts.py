"""Prompts of mixed lengths, laid out for decoding by blocks.

The full blocks of all prompts end at the same column, with whole blocks of padding to their left;
what does not fill a block starts the first one that is decoded. So every row's blocks stand in the
same columns, and a row is decoded as if it were alone. Where the attention is full, blocks of one
token let all prompts end at the same column.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


def check_ids(ids: Tensor) -> None:
    """Raise unless these are whole numbers (B, P), of a row or more."""
    if ids.ndim != 2 or not len(ids) or ids.dtype not in (torch.int64, torch.int32):
        raise ValueError(
            "input_ids are token ids of shape (rows, tokens), of at least one row, got shape "
            f"{tuple(ids.shape)} of {ids.dtype}."
        )


@dataclass(frozen=True)
class Decoded:
    """Finished rows in the layout of `Prompts`.

    Args:
        ids: (B, C) int64.
        rounds: (B, C) int64, the call within its block that decided a token; -1 for given tokens,
            padding, and what stands behind an end token.
        real: (B, C) bool, False at padding.
        calls: (B,) int64, network calls that each row needed.
        log_prob: (B, C), of each decided token under the law that it was drawn from.
    """

    ids: Tensor
    rounds: Tensor
    real: Tensor
    calls: Tensor
    log_prob: Tensor


@dataclass(frozen=True)
class Prompts:
    """Prompts whose blocks stand in the same columns.

    Args:
        ids: (B, C) int64, C a multiple of the block size.
        real: (B, C) bool, False at padding.
        given: (B, C) bool, the prompts' tokens.
        start: the column at which the blocks to be decoded start.
        sources: the prompts as they came, (B, P), and which of their tokens are real.
        block_size: tokens in a block.
        fill: the mask token.
    """

    ids: Tensor
    real: Tensor
    given: Tensor
    start: int
    sources: tuple[Tensor, Tensor]
    block_size: int
    fill: int

    @property
    def rows(self) -> int:
        """B."""
        return self.ids.shape[0]

    @classmethod
    def laid_out(
        cls,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        block_size: int,
        fill: int,
        vocab_size: int,
    ) -> Prompts:
        """From prompts (B, P) with padding on either side.

        Raises:
            ValueError: if ids and mask differ in shape, or a prompt holds a mask token or what is
                no token.
        """
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        if attention_mask.shape != input_ids.shape:
            raise ValueError(
                f"attention_mask has shape {tuple(attention_mask.shape)} and input_ids "
                f"{tuple(input_ids.shape)}: they must agree."
            )
        came = attention_mask.bool()
        outside = ((input_ids < 0) | (input_ids >= vocab_size)) & came
        if bool(outside.any()):
            raise ValueError(
                f"A prompt holds {int(input_ids[outside][0])}, and the model's tokens lie in "
                f"[0, {vocab_size}); it takes the tokenizer that it came with."
            )
        if bool(((input_ids == fill) & came).any()):
            raise ValueError(
                f"A prompt holds the mask token {fill}: decoding goes on behind a prompt; to fill "
                "tokens in, use DiscreteDiffusionPipeline with infill=."
            )
        lengths = came.sum(1)
        full, rest = lengths // block_size, lengths % block_size
        start = int(full.max()) * block_size
        width = start + block_size * int((rest > 0).any())
        ids = torch.full((len(lengths), width), fill, device=input_ids.device)
        # The column of each real token: the end of the full part is `start` in every row.
        order = came.long().cumsum(1) - 1
        column = order + start - (full * block_size)[:, None]
        rows = torch.arange(len(lengths), device=ids.device)[:, None].expand_as(came)
        ids[rows[came], column[came]] = input_ids[came]
        given = torch.zeros_like(ids, dtype=torch.bool)
        given[rows[came], column[came]] = True
        columns = torch.arange(width, device=ids.device)
        real = columns >= (start - full * block_size)[:, None]
        return cls(ids, real, given, start, (input_ids, came), block_size, fill)

    def repeated(self, times: int) -> Prompts:
        """Each prompt `times` times, one below the other.

        Raises:
            ValueError: for less than once.
        """
        if times < 1:
            raise ValueError(f"num_return_sequences must be at least 1, got {times}.")
        ids, real, given, *sources = (
            rows.repeat_interleave(times, 0)
            for rows in (self.ids, self.real, self.given, *self.sources)
        )
        return replace(self, ids=ids, real=real, given=given, sources=tuple(sources))

    def rest(self) -> Tensor:
        """(B,), how many tokens of each prompt stand in the blocks to be decoded."""
        return self.sources[1].sum(1) % self.block_size

    def room(self, new: int, size: int) -> Prompts:
        """The same with masks behind: room for `new` tokens in whole blocks in each row, and
        columns for whole pieces of `size` tokens in all; what a row does not need is padding."""
        blocks = -(-(self.rest() + new) // self.block_size)
        needed = int(blocks.max()) * self.block_size
        width = self.start + -(-needed // size) * size
        more = width - self.ids.shape[1]
        columns = torch.arange(width, device=self.ids.device)
        own = columns < (self.start + blocks * self.block_size)[:, None]
        pad = torch.nn.functional.pad
        return Prompts(
            pad(self.ids, (0, more), value=self.fill),
            pad(self.real, (0, more), value=True) & own,
            pad(self.given, (0, more), value=False),
            self.start,
            self.sources,
            self.block_size,
            self.fill,
        )

    def asked(self, new: int) -> Tensor:
        """(B, new), the columns of each row's new tokens."""
        source = self.sources[0]
        return self.start + self.rest()[:, None] + torch.arange(new, device=source.device)

    def undone(self, decoded: Decoded, new: int, pad: int) -> tuple[Tensor, Tensor]:
        """The sequences (B, P + new) with the prompts as they came, and their rounds."""
        source, columns = self.sources[0], self.asked(new)
        rounds = decoded.rounds.gather(1, columns)
        tokens = decoded.ids.gather(1, columns).masked_fill(rounds < 0, pad)
        return torch.cat([source, tokens], 1), torch.cat([torch.full_like(source, -1), rounds], 1)
