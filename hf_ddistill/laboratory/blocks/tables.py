"""Block decoders and autoregressive laws as tables.

C clean tokens, L positions in blocks of b; p the autoregressive law, (C^L,) in product order; M the
open positions of a block. A function of (prefix, block) is a tensor (P, C, ..., C); one that is
constant along a position has a 1 there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from hf_ddistill.denoisers import Denoiser, NetworkDenoiser
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.laboratory.space import clean_tokens, sequence_numbers
from hf_ddistill.parameterizations import Subs
from hf_ddistill.shapes import LOG_ZERO, Tokens

#: The open positions of a block, and what a target says of one of them: (P, d_1 .. d_b) with C at
#: that position.
Open: TypeAlias = tuple[int, ...]
Target: TypeAlias = Callable[[Tensor, Open, int], Tensor]


class CausalTable(nn.Module):
    """A network that knows p(x^i | x^1 .. x^(i-1)) of a law, called with `causal=True`.

    Args:
        law: p, (C^L,).
        diffusion: gives the tokens.
    """

    def __init__(self, law: Tensor, diffusion: Diffusion) -> None:
        super().__init__()
        self.diffusion = diffusion
        self.tokens = clean_tokens(diffusion)
        c = len(self.tokens)
        length = round(math.log(len(law), c))
        if c**length != len(law):
            raise ValueError(f"{len(law)} probabilities are no law of sequences of {c} tokens.")
        self.tables = [
            (part := law.double().view(c**i, c, -1).sum(-1)) / part.sum(-1, keepdim=True)
            for i in range(length)
        ]

    def forward(
        self,
        x: Tokens,
        t: Tensor | None,
        *,
        at: Tensor | None = None,
        causal: bool = True,
        clean_ids: Tokens | None = None,
        block_size: int = 1,
        **_: Any,
    ) -> Tensor:
        """log p(x^i = k | x^1 .. x^(i-1)), (B, n, K) or (N, K); with `clean_ids` the blocks before
        that of i are read there."""
        if not causal:
            raise ValueError("A causal table has one reading; call it with causal=True.")
        source = x if clean_ids is None else clean_ids
        out = torch.full((*x.shape, self.diffusion.vocab_size), LOG_ZERO, dtype=torch.float64)
        for i in range(x.shape[1]):
            start = i // block_size * block_size
            before = self._places(torch.cat([source[:, :start], x[:, start:i]], 1))
            log_p = self.tables[i][sequence_numbers(before, len(self.tokens))].log()
            out[:, i, self.tokens] = log_p.clamp_min(LOG_ZERO)
        return out if at is None else out.flatten(0, 1)[at]

    def _places(self, x: Tokens) -> Tensor:
        return torch.searchsorted(self.tokens, x.clamp_max(int(self.tokens[-1])))


class BlockTable(nn.Module):
    """A block decoder with free logits for every prefix, state of the block, position and token.

    Args:
        logits: one table (P, (C + 1)^b, b, C) for each block, in product order; the mask is the
            last digit of a state.
        block_size: b.
        diffusion: gives the tokens.
    """

    def __init__(self, logits: list[Tensor], block_size: int, diffusion: Diffusion) -> None:
        super().__init__()
        self.logits = nn.ParameterList(nn.Parameter(table.clone()) for table in logits)
        self.block_size, self.diffusion = block_size, diffusion
        self.tokens = clean_tokens(diffusion)
        self.mask = diffusion.process.mask_token_id

    def denoiser(self) -> Denoiser:
        """The table as a denoiser."""
        return NetworkDenoiser(self, self.diffusion, Subs(), reads_time=None)

    def forward(
        self,
        x: Tokens,
        t: Tensor | None,
        *,
        at: Tensor | None = None,
        clean_ids: Tokens | None = None,
        block_size: int | None = None,
        **_: Any,
    ) -> Tensor:
        """Logits (B, n, K), or (N, K) at `at`; every block reads the clean blocks before it, those
        of `clean_ids` if they are given."""
        if block_size not in (None, self.block_size):
            raise ValueError(f"This table has blocks of {self.block_size}, not of {block_size}.")
        b, c = self.block_size, len(self.tokens)
        source = x if clean_ids is None else clean_ids
        places = torch.searchsorted(self.tokens, source.clamp_max(int(self.tokens[-1])))
        digits = torch.searchsorted(self.tokens, x.clamp_max(int(self.tokens[-1])))
        digits = digits.masked_fill(x == self.mask, c)
        out = []
        for start in range(0, x.shape[1], b):
            prefix = sequence_numbers(places[:, :start], c)
            state = sequence_numbers(digits[:, start : start + b], c + 1)
            rows = self.logits[start // b][prefix, state]
            whole = rows.new_full((*rows.shape[:-1], self.diffusion.vocab_size), LOG_ZERO)
            out.append(whole.index_copy(-1, self.tokens, rows))
        logits = torch.cat(out, 1)
        return logits if at is None else logits.flatten(0, 1)[at]


def block_table(
    law: Tensor, block_size: int, diffusion: Diffusion, target: Target | None = None
) -> BlockTable:
    """The decoder that says of every open position what a target says.

    Args:
        law: p, (C^L,), positive.
        block_size: b.
        diffusion: gives the tokens.
        target: from p(block | prefix) (P, C, ..., C), M and i in M to the law of token i; the
            posterior if None, p(x^i | x^{<block}, what the block shows).
    """
    target = posterior if target is None else target
    c, b = len(clean_tokens(diffusion)), block_size
    length = round(math.log(len(law), c))
    tables = []
    for start in range(0, length, b):
        of_blocks = conditional_blocks(law, start, b, c)
        table = torch.zeros(len(of_blocks), (c + 1) ** b, b, c, dtype=torch.float64)
        for open_ in sets(b):
            states = states_of(open_, b, c)
            for i in open_:
                p = target(of_blocks, open_, i)
                shape = [1 if j in open_ else c for j in range(b)]
                p = p.movedim(1 + i, -1).unsqueeze(1 + i)
                p = p.expand(-1, *shape, -1).reshape(len(of_blocks), -1, c)
                table[:, states, i] = p.clamp_min(1e-300).log()
        tables.append(table)
    return BlockTable(tables, b, diffusion)


def conditional_blocks(law: Tensor, start: int, block_size: int, c: int) -> Tensor:
    """p(block | prefix), (C^start, C, ..., C), of the block after `start` positions."""
    p = law.double().view(c**start, c**block_size, -1).sum(-1)
    return (p / p.sum(-1, keepdim=True)).view(-1, *[c] * block_size)


def sets(block_size: int) -> Iterator[Open]:
    """Every set of open positions but the empty one, small ones first."""
    for count in range(1, block_size + 1):
        yield from combinations(range(block_size), count)


def summed(p: Tensor, positions: Iterator[int] | tuple[int, ...]) -> Tensor:
    """p (P, d_1 .. d_b) summed over some positions, which stay as 1."""
    dims = [1 + i for i in positions]
    return p.sum(dims, keepdim=True) if dims else p


def posterior(p: Tensor, open_: Open, i: int) -> Tensor:
    """p(x^i | prefix, what the block shows): what a per-token target ought to be."""
    joint = summed(p, tuple(j for j in open_ if j != i))
    return joint / joint.sum(1 + i, keepdim=True)


def states_of(open_: Open, b: int, c: int) -> Tensor:
    """The numbers of the states of a block that are open at these positions alone, in product
    order of the others."""
    choices = [torch.tensor([c]) if i in open_ else torch.arange(c) for i in range(b)]
    return sequence_numbers(torch.cartesian_prod(*choices).reshape(-1, b), c + 1)
