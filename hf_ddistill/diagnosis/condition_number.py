"""The condition number of ECD's recovery, for any process and vocabulary.

P = P_0t is the kernel, d = P[:, x] its column; p = p(x_0 | x_t = x) and the ratios r at x obey
    r = M(x) p,  M(x) = P^T diag(1 / d),  M(x)^-1 = diag(d) P^-T               (Eq. 8)
so M(x) and its inverse are both diag(after) A^T diag(before) with a structured operator A, and the
condition number |M(x)| |M(x)^-1| in the 2-norm needs no solver.

References: Gao, Sun, Distillation of Discrete Diffusion by Exact Conditional Distribution
Matching, 2025, arXiv:2512.12889.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from hf_ddistill.diffusion import Diffusion
from hf_ddistill.linalg import LinearOperator, ScalarPlusLowRank

#: Up to this K matrices are formed and decomposed into singular values.
MAX_DENSE = 512
#: Up to so many kinds of tokens every x is tried; beyond it, `FEW` tokens over the range.
MAX_ALL, FEW = 64, 8
#: A kernel that is kept as a matrix has entries known to about this.
ROUNDING = 1e-15


def condition_row(diffusion: Diffusion, t: float) -> dict[str, Any]:
    """The condition number of M(x) at the x where it is worst, and that of the kernel P_0t.

    The first bounds by how much relative errors of the ratios grow; it is large also because the
    columns of M(x) have unequal sizes, which costs no digits. The second is free of that. As in
    recovery itself, an x_0 that cannot have become x is left out, whether by the nature of the
    process or because the kernel's entry is below its resolution.

    Returns:
        a row with "condition", "kernel_condition" (None: more than float64 can tell), the "token"
        x, "left_out" (how many x_0 at any one x, at most), the "norm" and the "method" (see
        `operator_norm`).
    """
    kernel = diffusion.kernel(0.0, t)
    one = torch.ones(diffusion.vocab_size, dtype=torch.float64)
    norm, method = operator_norm(kernel, one, one)
    row: dict[str, Any] = {"section": "condition", "t": t}
    row["alpha"] = float(diffusion.schedule.alpha(torch.tensor(t, dtype=torch.float64)))
    tokens = torch.arange(diffusion.vocab_size)
    tokens = tokens_to_try(kernel, tokens[diffusion.undetermined(tokens[None])[0]])
    columns = kernel.columns(tokens[None])[0]
    row["left_out"] = int((columns == 0).sum(-1).max())
    try:
        inverse = kernel.inverse()
    except torch.linalg.LinAlgError:
        worst, token, of_kernel = math.inf, None, math.inf
    else:
        of_kernel = norm * operator_norm(inverse, one, one)[0]
        found = [_condition(kernel, inverse, column) for column in columns]
        worst = max(found)
        # The first of those that differ by rounding alone.
        near = (x for x, value in enumerate(found) if value >= worst * (1 - 1e-6))
        token = int(tokens[next(near)])
    row |= {"condition": finite(worst), "kernel_condition": finite(of_kernel), "token": token}
    return row | {"norm": "2", "method": method}


def _condition(kernel: LinearOperator, inverse: LinearOperator, column: Tensor) -> float:
    lost = (column != 0) & (column < ROUNDING)
    # Only c I + U C V^T has its small entries to full relative precision.
    if bool(lost.any()) and not isinstance(kernel, ScalarPlusLowRank):
        return math.inf
    over = torch.where(column > 0, 1 / column, torch.zeros_like(column))
    one = torch.ones_like(column)
    return operator_norm(kernel, over, one)[0] * operator_norm(inverse, one, column)[0]


def tokens_to_try(operator: LinearOperator, tokens: Tensor) -> Tensor:
    """One of each kind of `tokens`; of more than 64 kinds, some over their range."""
    if isinstance(operator, ScalarPlusLowRank):
        tokens = tokens[distinct(torch.cat([operator.left, operator.right], 1)[tokens])[0]]
    if len(tokens) <= MAX_ALL:
        return tokens
    return tokens[torch.linspace(0, len(tokens) - 1, FEW).round().long()]


def distinct(keys: Tensor) -> tuple[Tensor, Tensor]:
    """The first row of each kind among the rows of `keys`, in order, and how many there are."""
    group = torch.zeros(len(keys), dtype=torch.int64)
    for key in keys.unbind(1):  # several times faster than torch.unique(keys, dim=0)
        if bool((key == key[0]).all()):
            continue
        part = torch.unique(key, return_inverse=True)[1]
        group = torch.unique(group * (int(part.max()) + 1) + part, return_inverse=True)[1]
    counts = group.bincount()
    first = torch.full_like(counts, len(keys)).scatter_reduce(
        0, group, torch.arange(len(keys)), "amin"
    )
    order = first.argsort()
    return first[order], counts[order]


def operator_norm(kernel: LinearOperator, before: Tensor, after: Tensor) -> tuple[float, str]:
    """The 2-norm of diag(after) P^T diag(before), and the method that found it.

    "svd": the matrix, for K <= 512. "symmetry": exact at any K for c I + U C V^T with few distinct
    rows; tokens that are alike share one row of a small matrix, and what sums to 0 over them is
    only scaled. "power iteration": K beyond 512, an estimate from below.

    Args:
        kernel: P, not batched.
        before: (K,) float64.
        after: (K,) float64.
    """
    if kernel.size <= MAX_DENSE:
        return _two_norm(after[:, None] * kernel.dense().mT * before), "svd"
    if isinstance(kernel, ScalarPlusLowRank):
        norm = symmetric_norm(kernel, before, after)
        if norm is not None:
            return norm, "symmetry"
    return power_norm(kernel, before, after), "power iteration"


def symmetric_norm(kernel: ScalarPlusLowRank, before: Tensor, after: Tensor) -> float | None:
    """`operator_norm` by the symmetry between tokens; None if more than 512 are unlike."""
    keys = torch.cat([before[:, None], after[:, None], kernel.left, kernel.right], 1)
    first, counts = distinct(keys)
    if len(counts) > MAX_DENSE:
        return None
    before, after, rest = keys[first].split([1, 1, keys.shape[1] - 2], 1)
    before, after = before[:, 0], after[:, 0]
    left, right = rest.chunk(2, 1)
    weight = counts.double().sqrt()
    own = kernel.scalar * before * after
    shared = (weight * after)[:, None] * (right @ kernel.core.mT @ left.mT) * (weight * before)
    alike = own.abs()[counts > 1]
    return max(_two_norm(torch.diag(own) + shared), float(alike.max()) if len(alike) else 0.0)


def power_norm(kernel: LinearOperator, before: Tensor, after: Tensor, steps: int = 500) -> float:
    """`operator_norm` by power iteration, without a matrix; from below."""

    def apply(v: Tensor) -> Tensor:
        return after * kernel.vecmat(before * v)

    generator = torch.Generator().manual_seed(0)
    v = torch.randn(kernel.size, generator=generator, dtype=torch.float64)
    norm = 0.0
    for _ in range(steps):
        u, adjoint = torch.func.vjp(apply, v / v.norm())
        last, norm = norm, float(u.norm())
        if not math.isfinite(norm) or abs(norm - last) <= 1e-10 * norm:
            break
        (v,) = adjoint(u)
    return norm if math.isfinite(norm) else math.inf


def _two_norm(matrix: Tensor) -> float:
    return float(torch.linalg.matrix_norm(matrix, 2)) if bool(matrix.isfinite().all()) else math.inf


def finite(value: float) -> float | None:
    """The number, or None where it is infinite or NaN: JSON has neither."""
    return value if math.isfinite(value) else None
