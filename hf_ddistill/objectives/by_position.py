"""Sums over the vocabulary at each position, a few positions at a time.

A distance at N positions over K tokens is a few passes over (N, K) forward and as many backward.
Here these are made anew for a few positions at a time, both ways: what is kept between is the
predictions themselves, and what comes back is one gradient (N, K).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

#: (some of the positions, log q (n, K) there) -> (n,), each position by itself.
Distance = Callable[[slice, Tensor], Tensor]

#: Entries that are looked at together: few enough for a processor's cache, and on a device enough
#: for the launches to be worth their while.
ON_CPU, ELSEWHERE = 2**18, 2**25


@dataclass(frozen=True)
class Certain:
    """Positions at which one token is all that counts.

    Args:
        tokens: (N,), of all positions.
        here: (N,), whether that is so.
        distance: from log q of the token, (N,) -> (N,).
    """

    tokens: Tensor
    here: Tensor
    distance: Callable[[Tensor], Tensor]


def by_position(
    distance: Distance,
    log_q: Tensor,
    numbers: Tensor | None = None,
    certain: Certain | None = None,
) -> Tensor:
    """distance (N,) at each position; gradients flow to log_q alone.

    Args:
        distance: of some positions; its slices count those of `numbers`.
        log_q: (N, K).
        numbers: (N',), the positions that the distance is of; all if not given, in order.
        certain: what is said of others of them; 0 where nothing is.
    """
    return _ByPosition.apply(log_q, distance, numbers, certain)


class _ByPosition(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 (torch's own)
        log_q: Tensor,
        distance: Distance,
        numbers: Tensor | None,
        certain: Certain | None,
    ) -> Tensor:
        ctx.save_for_backward(log_q)
        ctx.about = distance, numbers, certain
        out = log_q.new_zeros(log_q.shape[0])
        if certain is not None:
            out = torch.where(certain.here, certain.distance(_at(log_q, certain)), out)
        for some in _chunks(log_q, numbers):
            at = some if numbers is None else numbers[some]
            out[at] = distance(some, log_q[at])
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        (log_q,), (distance, numbers, certain) = ctx.saved_tensors, ctx.about
        out = torch.zeros_like(log_q)
        if certain is not None:
            with torch.enable_grad():
                own = _at(log_q, certain).requires_grad_()
                (slope,) = torch.autograd.grad(certain.distance(own).sum(), own)
            slope = torch.where(certain.here, slope * gradient, 0.0)
            out.scatter_(-1, certain.tokens[:, None], slope[:, None])
        for some in _chunks(log_q, numbers):
            at = some if numbers is None else numbers[some]
            with torch.enable_grad():
                part = log_q[at].detach().requires_grad_()
                (out[at],) = torch.autograd.grad(distance(some, part), part, gradient[at])
        return out, None, None, None


def _at(log_q: Tensor, certain: Certain) -> Tensor:
    return log_q.gather(-1, certain.tokens[:, None])[:, 0].detach()


def _chunks(log_q: Tensor, numbers: Tensor | None) -> list[slice]:
    count = log_q.shape[0] if numbers is None else numbers.shape[0]
    size = ON_CPU if log_q.device.type == "cpu" else ELSEWHERE
    size = max(1, size // log_q.shape[-1])
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]
