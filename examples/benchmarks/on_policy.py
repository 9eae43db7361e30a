"""Where training on a block decoder's own rollouts comes to rest, for a student that is a table.

M the open positions of a state of a block; F_M(x) the probability that decoding ends in x from the
state that shows x outside M; q_M^i(x) what the student says there of token i.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations

import torch
from block_targets import causal_conditional, mixed
from torch import Tensor

from hf_ddistill.diffusion import Diffusion
from hf_ddistill.laboratory.blocks.tables import (
    BlockTable,
    Open,
    block_table,
    posterior,
    sets,
    summed,
)

#: Of p(block | prefix) (P, C, ..., C), M and i: the teacher's law of token i given other tokens.
Teacher = Callable[[Tensor, Open, int], Tensor]
#: Change of a probability at which the iteration stops.
ENOUGH = 1e-12


def of_prefix(p: Tensor, open_: Open, i: int) -> Tensor:
    """p(x^i | prefix, x^{<i}): the teacher as it is."""
    return causal_conditional(p, i)


def re_scored(p: Tensor, open_: Open, i: int) -> Tensor:
    """p(x^i | prefix, the other tokens up to the last one that the block shows): what re-scored
    candidates give."""
    last = max((j for j in range(p.ndim - 1) if j not in open_), default=-1)
    joint = summed(p, tuple(range(max(last, i) + 1, p.ndim - 1)))
    return joint / joint.sum(1 + i, keepdim=True)


def on_policy_table(
    law: Tensor,
    block_size: int,
    diffusion: Diffusion,
    calls: int,
    teacher: Teacher = of_prefix,
) -> BlockTable:
    """The decoder with q_M^i = E[teacher's law of token i | state] over its own ends F_M, at every
    state of its `calls` calls in random order (`Static("random")`).

    With `of_prefix` it is the fixed point of OPDLM, with `re_scored` that of its mended target on
    the student's own rollouts. States that no such decoding passes through get the posterior.

    References: Su et al., 2026, arXiv:2606.06712, Eq. 5.

    Args:
        law: of the teacher, (C^L,), positive.
        block_size: b.
        diffusion: gives the tokens.
        calls: n, in 1 .. b.
        teacher: its law of a token given others.

    Raises:
        ValueError: if the calls are not 1 .. b.
    """
    if not 1 <= calls <= block_size:
        raise ValueError(f"A block of {block_size} tokens takes 1 to that many calls, got {calls}.")
    solved: dict[int, dict[tuple[Open, int], Tensor]] = {}

    def target(p: Tensor, open_: Open, i: int) -> Tensor:
        # One solution for each block: its prefixes tell them apart.
        if len(p) not in solved:
            solved[len(p)] = _solved(p, calls, teacher)
        found = solved[len(p)].get((open_, i))
        return posterior(p, open_, i) if found is None else found

    return block_table(law, block_size, diffusion, target)


def _solved(p: Tensor, calls: int, teacher: Teacher) -> dict[tuple[Open, int], Tensor]:
    """q_M^i for every M of the decoding, those with few open positions first."""
    size = p.ndim - 1
    counts, left = {}, size
    for call in range(calls):
        counts[left] = -(-left // (calls - call))
        left -= counts[left]
    ends: dict[Open, Tensor] = {(): torch.ones_like(p)}
    found: dict[tuple[Open, int], Tensor] = {}
    for open_ in sets(size):
        if len(open_) not in counts:
            continue
        own = {i: posterior(p, open_, i) for i in open_}
        for _ in range(100):
            reached = _ends(own, open_, counts[len(open_)], ends)
            new = {i: mixed(reached, teacher(p, open_, i), open_, i) for i in open_}
            new = {i: q / q.sum(1 + i, keepdim=True) for i, q in new.items()}
            change = max(float((new[i] - own[i]).abs().max()) for i in open_)
            own = new
            if change < ENOUGH:
                break
        ends[open_] = _ends(own, open_, counts[len(open_)], ends)
        found |= {(open_, i): own[i] for i in open_}
    return found


def _ends(own: dict[int, Tensor], open_: Open, count: int, ends: dict[Open, Tensor]) -> Tensor:
    """F_M: a random set of `count` positions drawn from q_M, then from F of what is left."""
    picks = list(combinations(open_, count))
    total = sum(
        math.prod(own[i] for i in picked) * ends[tuple(i for i in open_ if i not in picked)]
        for picked in picks
    )
    return total / len(picks)
