"""How far one law is from another: (..., N), (..., N) -> (...), float64, in nats where there is a
logarithm. All can be differentiated where the laws are positive."""

from __future__ import annotations

import torch
from torch import Tensor


def total_variation(p: Tensor, q: Tensor) -> Tensor:
    """sum_x |p(x) - q(x)| / 2, in [0, 1]; symmetric.

    Args:
        p: probabilities (..., N).
        q: probabilities (..., N), of the same sequences in the same order.

    Raises:
        ValueError: if the shapes differ, or a row is no law.
    """
    p, q = _laws(p, q)
    return (p - q).abs().sum(-1) / 2


def kl_divergence(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) = sum_x p(x) log(p(x) / q(x)); infinite where q misses some of p.

    With p the data it is large where q has dropped a mode; the other way around, KL(q || p), where
    q makes up what the data do not hold. Arguments and errors as `total_variation`.
    """
    p, q = _laws(p, q)
    return (torch.special.xlogy(p, p) - torch.special.xlogy(p, q)).sum(-1)


def chi_square(p: Tensor, q: Tensor) -> Tensor:
    """sum_x (p(x) - q(x))^2 / q(x); infinite where q misses some of p.

    N times it is what Pearson's statistic of N draws from p expects beyond its degrees of freedom,
    to first order. Arguments and errors as `total_variation`.
    """
    p, q = _laws(p, q)
    # Where both are 0 they differ by 0, and the quotient would be NaN.
    possible = (p > 0) | (q > 0)
    return ((p - q).square() / torch.where(possible, q, torch.ones_like(q))).sum(-1)


def entropy(p: Tensor) -> Tensor:
    """- sum_x p(x) log p(x) of a law (..., N), in nats.

    Raises:
        ValueError: if a row is no law.
    """
    (p,) = _laws(p)
    return torch.special.entr(p).sum(-1)


def _laws(*laws: Tensor) -> list[Tensor]:
    if len({law.shape for law in laws}) > 1:
        shapes = " and ".join(str(tuple(law.shape)) for law in laws)
        raise ValueError(f"Two laws of the same sequences have one shape, got {shapes}.")
    for law in laws:
        total = law.detach().sum(-1, dtype=torch.float64)
        # 1e-5 leaves room for a law that was normalised in float32.
        if not (bool((law >= 0).all()) and bool(((total - 1).abs() < 1e-5).all())):
            raise ValueError(
                f"A law has no negative entries and sums to 1, got a least entry of "
                f"{float(law.min()):.3g} and sums from {float(total.min()):.8g} to "
                f"{float(total.max()):.8g}."
            )
    return [law.double() for law in laws]
