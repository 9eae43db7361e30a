"""Block decoders and autoregressive laws as tables, and the targets of a block decoder in closed
form.

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
from hf_ddistill.laboratory.space import all_sequences, clean_tokens, sequence_numbers
from hf_ddistill.parameterizations import Conditional, Subs, log_prob_of
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
        return out if at is None else out[at]

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
        return logits if at is None else logits[at]


def causal_law(denoiser: Denoiser, length: int) -> Tensor:
    """The law of a causal language model's first L tokens, the clean ones renormalised: float64
    (C^L,) in product order.

    Args:
        denoiser: its network, called with `causal=True`, gives the logits of token i at i.
        length: L.
    """
    tokens = clean_tokens(denoiser.diffusion)
    x = all_sequences(tokens, length).reshape(-1, length)
    bare = denoiser.read_as(Conditional())
    with torch.no_grad():
        log_p = torch.cat([bare(some, causal=True).log_conditional for some in x.split(4096)])
    log_p = log_p.double()[..., tokens].log_softmax(-1)
    places = torch.searchsorted(tokens, x)
    law = log_prob_of(log_p, places).sum(1).exp()
    return law / law.sum()


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
            states = _states(open_, b, c)
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


def causal_conditional(p: Tensor, i: int) -> Tensor:
    """p(x^i | prefix, x^{<i}), constant along the positions after i."""
    joint = summed(p, tuple(range(i + 1, p.ndim - 1)))
    return joint / joint.sum(1 + i, keepdim=True)


def prefix(p: Tensor, open_: Open, i: int) -> Tensor:
    """E[p(x^i | x_0^{<i}) | what the block shows] over x_0 ~ p: OPDLM's target where the ends are
    the teacher's and the masks are random.

    References: Su et al., 2026, arXiv:2606.06712, Eq. 6.
    """
    return mixed(p, causal_conditional(p, i), open_, i)


def mixed(ends: Tensor, conditional: Tensor, open_: Open, i: int) -> Tensor:
    """E[conditional | what the block shows] over ends ~ `ends`: the law of token i given others,
    averaged over the open ones among them."""
    others = tuple(j for j in open_ if j != i)
    given = summed(ends, (i,))
    weight = given / summed(given, others).clamp_min(1e-300)
    return summed(weight * conditional, others)


def _states(open_: Open, b: int, c: int) -> Tensor:
    choices = [torch.tensor([c]) if i in open_ else torch.arange(c) for i in range(b)]
    return sequence_numbers(torch.cartesian_prod(*choices).reshape(-1, b), c + 1)


def table_bias(law: Tensor, table: BlockTable) -> float:
    """KL(posterior || what a table says) in nats per masked token, over x_0 ~ `law`, blocks alike
    and n of b masks at random, n uniform."""
    b, c = table.block_size, len(table.tokens)
    true = block_table(law, b, table.diffusion)
    total, starts = 0.0, range(0, round(math.log(len(law), c)), b)
    for start in starts:
        of_blocks = conditional_blocks(law, start, b, c)
        of_prefixes = law.double().view(c**start, -1).sum(-1)
        said = table.logits[start // b].detach().log_softmax(-1)
        known = true.logits[start // b].detach()
        divergence = (known.exp() * (known - said)).sum(-1)
        for open_ in sets(b):
            states = _states(open_, b, c)
            weight = of_prefixes[:, None] * summed(of_blocks, open_).flatten(1)
            each = divergence[:, states][..., list(open_)].mean(-1)
            total += float((weight * each).sum()) / (b * math.comb(b, len(open_)))
    return total / len(starts)
