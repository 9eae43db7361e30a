"""The pathwise gradient of a student's law: at each token that it drew, along what two other laws
say of it.

q the student's law of a token at the call that drew it; p_T and p_A what teacher and auxiliary say
of it at a state that hides it. x_0 is drawn from a product of such laws, so that of any f(x_0)

    d E f = sum over positions i of E [sum over tokens c of dq_i(c) f(x_0 with c at i)]

and every term of f that c is no part of drops out. For f = E_z log(p_A / p_T)(z), z a state of x_0
whose tokens are noised independently of each other, what is left is a difference of concrete scores
at i: the gradient of KL between the laws of z is exact, and no network is differentiated.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hf_ddistill.couplings import Local
from hf_ddistill.objectives.by_position import Last, by_position
from hf_ddistill.objectives.log_ratio import LogRatio
from hf_ddistill.places import Places
from hf_ddistill.shapes import LOG_ZERO

#: (some of the positions, log q (n, K), log p_T and log p_A (n, K), its own) -> (n,).
Value = Callable[[slice, Tensor, Tensor, Tensor], Tensor]


def along(
    local: Local,
    ratio: LogRatio,
    both: Places,
    value: Value,
    *,
    rows: Tensor | None = None,
    last: bool = False,
) -> Tensor:
    """The sum of `value` in each row, (R,); gradients flow to the student's prediction alone.

    Args:
        local: the student's prediction at the call that drew the tokens, of R rows.
        ratio: what the others say of them.
        both: positions of the R rows that were asked for in both.
        value: of some of them; must change none of what it is given but the difference of laws
            that it makes itself.
        rows: (R,), which rows of the ratio's batch these are; all if not given.
        last: whether nothing else looks at the student's prediction behind this, see `Last`.
    """
    there = both
    if rows is not None:
        # The same positions among all rows.
        index = rows.index_select(0, both.rows) * both.shape[1] + both.positions
        there = Places(index, ratio.teacher.places.shape)
    there = ratio.teacher.numbers_of(there)

    def of(some: slice, log_q: Tensor, teacher: Tensor, auxiliary: Tensor) -> Tensor:
        at = there[some]
        return value(some, log_q, teacher.index_select(0, at), auxiliary.index_select(0, at))

    log_q = local.prediction.log_conditional
    log_q = Last(log_q) if last else log_q
    found = by_position(of, log_q, local.numbers_of(both), of=ratio.laws)
    return found.new_zeros(both.shape[0]).index_add(0, local.rows, found)


def mean_of(log_q: Tensor, values: Tensor) -> Tensor:
    """sum_c q(c) values(c); a token that is impossible for the student says nothing, whatever its
    value."""
    possible = log_q > LOG_ZERO / 2
    return torch.where(possible, log_q.exp() * values, torch.zeros_like(values)).sum(-1)
