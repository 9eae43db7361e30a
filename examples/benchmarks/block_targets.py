"""Targets of a block decoder in closed form, and how far a table is from the right one.

p the autoregressive law, (C^L,) in product order; M the open positions of a block. A function of
(prefix, block) is a tensor (P, C, ..., C); one that is constant along a position has a 1 there.
"""

from __future__ import annotations

import math

from torch import Tensor

from hf_ddistill.laboratory.blocks.tables import (
    BlockTable,
    Open,
    block_table,
    conditional_blocks,
    sets,
    states_of,
    summed,
)


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
            states = states_of(open_, b, c)
            weight = of_prefixes[:, None] * summed(of_blocks, open_).flatten(1)
            each = divergence[:, states][..., list(open_)].mean(-1)
            total += float((weight * each).sum()) / (b * math.comb(b, len(open_)))
    return total / len(starts)
