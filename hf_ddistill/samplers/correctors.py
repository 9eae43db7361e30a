"""One position redrawn so that a law p stays what it is, given that of the position when the others
are known.

pi = p(x^i | all but x^i), (N, K), of N positions, and the tokens (N,) that are there. Each
corrector gives the law (N, K) of the token after it, and pi is invariant under it: in detailed
balance.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Corrector = Callable[[Tensor, Tensor], Tensor]


def gibbs(pi: Tensor, now: Tensor) -> Tensor:
    """pi itself, whatever was there."""
    return pi


def barker(pi: Tensor, now: Tensor) -> Tensor:
    """Another token y, any of those that are possible as likely as another, is taken with chance
    pi(y) / (pi(y) + pi(now)): Barker, 1965. It moves less than `gibbs`, and least over many
    tokens."""
    here = pi.gather(-1, now[:, None])
    possible = (pi > 0).scatter(-1, now[:, None], False)
    others = possible.sum(-1, keepdim=True).clamp_min(1)
    move = torch.where(possible, pi / (pi + here), torch.zeros_like(pi)) / others
    return move.scatter(-1, now[:, None], 1 - move.sum(-1, keepdim=True))


CORRECTORS: dict[str, Corrector] = {"gibbs": gibbs, "barker": barker}
