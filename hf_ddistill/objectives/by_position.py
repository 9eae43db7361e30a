"""Sums over the vocabulary at each position, a few positions at a time.

A distance at N positions over K tokens is a few passes over (N, K) forward and as many backward.
Here these are made anew for a few positions at a time, both ways: what is kept between is the
predictions themselves, and what comes back is one gradient (N, K): that of the logits, where the
prediction has a `stand_in` for them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hf_ddistill.parameterizations import stand_in

#: (some of the positions, log q (n, K) there, what is given beside it (n,), the tensors that it is
#: of) -> (n,) or (n, m), each position by itself.
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
    of: tuple[Tensor, ...] = (),
) -> Tensor:
    """distance (N,) at each position; gradients flow to log_q and to `beside`.

    Args:
        distance: of some positions; its slices count those of `numbers`.
        log_q: (N, K) or (N, 1, K).
        numbers: (N',), the positions that the distance is of; all if not given, in order.
        certain: what is said of others of them; 0 where nothing is.
        beside: (N',), one more argument of the distance, if it takes one.
        of: its last arguments, whole, without gradients: they are let go on the way back.
    """
    flat, logits = log_q.flatten(0, -2), stand_in(log_q)
    straight = logits is not None and torch.is_grad_enabled()
    to = logits.flatten(0, -2) if straight else flat
    about = distance, numbers, certain, straight
    return _ByPosition.apply(to, flat.detach(), beside, about, *of)


class _ByPosition(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 (torch's own)
        _: Tensor,
        log_q: Tensor,
        beside: Tensor | None,
        about: tuple[Distance, Tensor | None, Certain | None, bool],
        *of: Tensor,
    ) -> Tensor:
        distance, numbers, certain, _ = about
        ctx.save_for_backward(log_q, beside, *of)
        ctx.about = about
        found = []
        for some in chunks(log_q, numbers):
            at = some if numbers is None else numbers[some]
            more = () if beside is None else (beside[some],)
            found.append(distance(some, log_q[at], *more, *of))
        values = torch.cat(found)
        if numbers is None:
            return values
        out = values.new_zeros(log_q.shape[0], *values.shape[1:])
        if certain is not None:
            own = certain.distance(_at(log_q, certain))
            out = torch.where(certain.here, own.to(out.dtype), out)
        return out.index_copy_(0, numbers, values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        (log_q, beside, *of), (distance, numbers, certain, straight) = ctx.saved_tensors, ctx.about
        out, own = torch.zeros_like(log_q), None if beside is None else torch.zeros_like(beside)
        if certain is not None:
            _put_certain(out, log_q, certain, gradient, straight)
        for some in chunks(log_q, numbers):
            at = some if numbers is None else numbers[some]
            given = [log_q[at]] if beside is None else [log_q[at], beside[some]]
            with torch.enable_grad():
                given = [each.detach().requires_grad_() for each in given]
                slopes = torch.autograd.grad(distance(some, *given, *of), given, gradient[at])
            if straight:
                out[at] = torch._log_softmax_backward_data(slopes[0], given[0], -1, log_q.dtype)
            else:
                out[at] = slopes[0]
            if own is not None:
                own[some] = slopes[1]
        return out, None, own, None, *(None for _ in of)


def _put_certain(
    out: Tensor, log_q: Tensor, certain: Certain, gradient: Tensor, straight: bool
) -> None:
    """The gradient at positions that are certain, put into `out`, 0 elsewhere."""
    with torch.enable_grad():
        known = _at(log_q, certain).requires_grad_()
        (slope,) = torch.autograd.grad(certain.distance(known).sum(), known)
    slope = torch.where(certain.here, slope * gradient, 0.0).to(out.dtype)[:, None]
    if straight:
        for some in chunks(log_q):
            torch.exp(log_q[some], out=out[some]).mul_(-slope[some])
    out.scatter_add_(-1, certain.tokens[:, None], slope)


def _at(log_q: Tensor, certain: Certain) -> Tensor:
    return log_q.gather(-1, certain.tokens[:, None])[:, 0].detach()


def chunks(log_q: Tensor, numbers: Tensor | None = None) -> list[slice]:
    """Which of the positions (N, K), or of `numbers` of them, are looked at together."""
    count = log_q.shape[0] if numbers is None else numbers.shape[0]
    size = ON_CPU if log_q.device.type == "cpu" else ELSEWHERE
    size = max(1, size // log_q.shape[-1])
    return [slice(start, min(start + size, count)) for start in range(0, max(count, 1), size)]
