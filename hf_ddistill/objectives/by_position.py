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

#: (some of the positions, log q (n, K) there, and what is given beside it (n,)) -> (n,), each
#: position by itself.
Distance = Callable[..., Tensor]

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
    beside: Tensor | None = None,
) -> Tensor:
    """distance (N,) at each position; gradients flow to log_q and to `beside`.

    Args:
        distance: of some positions; its slices count those of `numbers`.
        log_q: (N, K).
        numbers: (N',), the positions that the distance is of; all if not given, in order.
        certain: what is said of others of them; 0 where nothing is.
        beside: (N',), one more argument of the distance, if it takes one.
    """
    return _ByPosition.apply(log_q, beside, distance, numbers, certain)


class _ByPosition(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 (torch's own)
        log_q: Tensor,
        beside: Tensor | None,
        distance: Distance,
        numbers: Tensor | None,
        certain: Certain | None,
    ) -> Tensor:
        ctx.save_for_backward(log_q, beside)
        ctx.about = distance, numbers, certain
        found = [log_q.new_zeros(0)]
        for some in _chunks(log_q, numbers):
            at = some if numbers is None else numbers[some]
            more = () if beside is None else (beside[some],)
            found.append(distance(some, log_q[at], *more))
        values = torch.cat(found)
        if numbers is None:
            return values
        out = values.new_zeros(log_q.shape[0])
        if certain is not None:
            own = certain.distance(_at(log_q, certain))
            out = torch.where(certain.here, own.to(out.dtype), out)
        return out.index_copy_(0, numbers, values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        (log_q, beside), (distance, numbers, certain) = ctx.saved_tensors, ctx.about
        out, own = torch.zeros_like(log_q), None if beside is None else torch.zeros_like(beside)
        if certain is not None:
            with torch.enable_grad():
                known = _at(log_q, certain).requires_grad_()
                (slope,) = torch.autograd.grad(certain.distance(known).sum(), known)
            slope = torch.where(certain.here, slope * gradient, 0.0)
            out.scatter_(-1, certain.tokens[:, None], slope[:, None].to(out.dtype))
        for some in _chunks(log_q, numbers):
            at = some if numbers is None else numbers[some]
            given = [log_q[at]] if beside is None else [log_q[at], beside[some]]
            with torch.enable_grad():
                given = [each.detach().requires_grad_() for each in given]
                slopes = torch.autograd.grad(distance(some, *given), given, gradient[at])
            out[at] = slopes[0]
            if own is not None:
                own[some] = slopes[1]
        return out, own, None, None, None


def _at(log_q: Tensor, certain: Certain) -> Tensor:
    return log_q.gather(-1, certain.tokens[:, None])[:, 0].detach()


def _chunks(log_q: Tensor, numbers: Tensor | None) -> list[slice]:
    count = log_q.shape[0] if numbers is None else numbers.shape[0]
    size = ON_CPU if log_q.device.type == "cpu" else ELSEWHERE
    size = max(1, size // log_q.shape[-1])
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]
