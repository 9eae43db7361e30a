"""How a sequence came about, block by block: what objectives on rollouts are trained on.

A decoder of masked blocks never changes a token that it has decided. So x_0, with the number of the
call that decided each token, is the whole trajectory: the state before call r of a block has masks
at the tokens decided at call r or later.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor

from hf_ddistill.linalg import require, uniform_noise
from hf_ddistill.places import Places
from hf_ddistill.shapes import Generators, Tokens, Where


@dataclass(frozen=True)
class Trajectory:
    """The order in which the tokens of x_0 were decided.

    Args:
        rounds: (B, L) int64, number of the call within its block, from 0, that decided a token;
            -1 for a token that was given (a prompt) or does not count (padding, after the end).
        block_size: tokens in each block; block i holds the positions i b to i b + b - 1.
        log_prob: (B, L), of each decided token under the law that it was drawn from; None where it
            is not known.

    Raises:
        ValueError: if blocks do not divide the length, or no token of any row was decided.
    """

    rounds: Tensor
    block_size: int
    log_prob: Tensor | None = None

    def __post_init__(self) -> None:
        if self.rounds.shape[1] % self.block_size:
            raise ValueError(
                f"Blocks of {self.block_size} tokens do not divide a length of "
                f"{self.rounds.shape[1]}."
            )
        require(
            self.drawn.any(),
            lambda *_: (
                "A rollout is empty: none of its tokens was decoded, all are given or padding."
            ),
        )

    @property
    def drawn(self) -> Where:
        """(B, L), the tokens that were decided, not given."""
        return self.rounds >= 0

    @property
    def calls(self) -> Tensor:
        """(B, L / b) int64, the calls that each block took; 0 for a block that was given."""
        return self._blocks(self.rounds).amax(-1) + 1

    def of(self, rows: Tensor) -> Trajectory:
        """That of some of the rows."""
        log_prob = None if self.log_prob is None else self.log_prob[rows]
        return Trajectory(self.rounds[rows], self.block_size, log_prob)

    def at(self, number: Tensor) -> Where:
        """Where there are masks in the state before call `number` (B, L / b) of each block."""
        return self.drawn & (self.rounds >= self.spread(number))

    def places(self, most: Callable[[int], int] = int) -> list[Places]:
        """The positions that each call decided, from call 0 on; the device is waited for once.

        Args:
            most: from the number of calls to that with which the list is filled up, by none.
        """
        none = torch.zeros(self.block_size + 1, dtype=torch.int64, device=self.rounds.device)
        rounds = self.rounds.flatten() + 1
        counts = none.scatter_add(0, rounds, torch.ones_like(rounds)).tolist()[1:]
        while counts and not counts[-1]:
            counts.pop()
        counts += [0] * (most(len(counts)) - len(counts))
        return [Places.of(self.rounds == r, count) for r, count in enumerate(counts)]

    def any_call(self, generator: Generators = None, per_block: bool = True) -> Tensor:
        """A number of a call for each block, (B, L / b), each of its calls as likely as the others.

        Args:
            generator: of the draw.
            per_block: one draw for each block; else one share of its calls for all of a row.
        """
        calls = self.calls
        shape = calls.shape if per_block else (calls.shape[0], 1)
        share = uniform_noise(shape, generator, calls.device)
        return (share * calls).long().clamp_max((calls - 1).clamp_min(0))

    def spread(self, values: Tensor) -> Tensor:
        """One value for each block, (B, L / b), at each of its positions: (B, L)."""
        return values.repeat_interleave(self.block_size, 1)

    def _blocks(self, values: Tensor) -> Tensor:
        return values.unflatten(1, (-1, self.block_size))


def calls_in_blocks(numbers: Int64[Tensor, "b c"], piece: int, block: int) -> Int64[Tensor, "b c"]:
    """Numbers of calls within a block of `block` tokens, from those within its pieces of `piece`
    tokens, which were decoded one after another; -1 stays."""
    calls = numbers.unflatten(1, (-1, piece)).amax(-1) + 1
    before = calls.cumsum(1) - calls
    number = torch.arange(calls.shape[1], device=numbers.device)
    first = number * piece // block * block // piece
    offset = (before - before[:, first]).repeat_interleave(piece, 1)
    return torch.where(numbers >= 0, numbers + offset, numbers)


def random_masks(x_0: Tokens, among: Where, block_size: int, generator: Generators) -> Where:
    """(B, L), masks at n of the N positions of `among` in each block, n uniform in 1 .. N.

    Args:
        x_0: gives the shape.
        among: (B, L).
        block_size: tokens in each block.
        generator: of the draw.
    """
    blocks = among.unflatten(1, (-1, block_size))
    share = uniform_noise(blocks.shape[:2], generator, x_0.device)
    order = uniform_noise(x_0.shape, generator, x_0.device).unflatten(1, (-1, block_size))
    order = order.masked_fill(~blocks, 2.0).argsort(-1).argsort(-1)
    open_ = blocks.sum(-1)
    count = ((share * open_).long() + 1).minimum(open_)
    return ((order < count[..., None]) & blocks).flatten(1)
