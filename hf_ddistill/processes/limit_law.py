"""The law that a chain tends to, and which of its states can reach which."""

from __future__ import annotations

import torch
from torch import Tensor


def reaches(rates: Tensor) -> Tensor:
    """Whether the chain can get from i to j, in any number of jumps or none: bool (n, n).

    Args:
        rates: (n, n), those off the diagonal >= 0; what stands on it is not looked at.
    """
    size = rates.shape[0]
    out = (rates > 0) | torch.eye(size, dtype=torch.bool)
    # Squaring doubles the number of jumps.
    for _ in range(size.bit_length()):
        out = (out.float() @ out.float()) > 0
    return out


def limit_law(rates: Tensor) -> Tensor:
    """The one law (n,) that n states tend to, float64; exactly 0 where a state is left for good.

    By state reduction without a subtraction, so that each probability is right to about n eps
    however small it is, and a law that is certain of one state is 1 there without rounding.

    References: Grassmann, Taksar, Heyman, Regenerative Analysis and Steady State Distributions for
    Markov Chains, 1985, doi:10.1287/opre.33.5.1107.

    Args:
        rates: (n, n), as for `reaches`: of a generator, or the probabilities of a stochastic
            matrix.

    Raises:
        ValueError: if no state can be reached from all others: there is more than one such law.
    """
    kept = reaches(rates).all(0).nonzero()[:, 0]
    if not len(kept):
        raise ValueError(
            "This rate matrix has more than one limit law: no token can be reached from all others."
        )
    left = rates.double()[kept][:, kept]
    for last in range(len(kept) - 1, 0, -1):
        # The chain watched only while it is not in `last`: what goes there comes back at once.
        left[:last, last] /= left[last, :last].sum()
        left[:last, :last] += torch.outer(left[:last, last], left[last, :last])
    weights = torch.ones(len(kept), dtype=torch.float64)
    for state in range(1, len(kept)):
        weights[state] = weights[:state] @ left[:state, state]
        # Kept normalised: a drift over many states would overflow.
        weights[: state + 1] /= weights[: state + 1].sum()
    law = torch.zeros(rates.shape[0], dtype=torch.float64)
    law[kept] = weights
    return law
