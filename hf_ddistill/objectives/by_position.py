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
class Last:
    """log q that nothing else takes a gradient of, or looks at behind this: on the way back its
    gradient takes its place, where it goes straight to the logits.

    Args:
        log_q: (N, K) or (N, 1, K).
    """

    log_q: Tensor


@dataclass(frozen=True)
class Certain:
    """What is said of the positions that are not among the `numbers`, where one token is all that
    counts.

    Args:
        tokens: (N,), of all positions.
        distance: from log q of the token, (N,) -> (N,).
    """

    tokens: Tensor
    distance: Callable[[Tensor], Tensor]


def by_position(
    distance: Distance,
    log_q: Tensor | Last,
    numbers: Tensor | None = None,
    certain: Certain | None = None,
    beside: Tensor | None = None,
    of: tuple[Tensor, ...] = (),
) -> Tensor:
    """distance (N,) at each position; gradients flow to log_q and to `beside`.

    Args:
        distance: of some positions; its slices count those of `numbers`.
        log_q: (N, K) or (N, 1, K), or the `Last` use of it.
        numbers: (N',), the positions that the distance is of; all if not given, in order.
        certain: what is said of all others; 0 where nothing is.
        beside: (N',), one more argument of the distance, if it takes one.
        of: its last arguments, whole, without gradients: they are let go on the way back.
    """
    last = isinstance(log_q, Last)
    log_q = log_q.log_q if last else log_q
    flat, logits = log_q.flatten(0, -2), stand_in(log_q)
    straight = logits is not None and torch.is_grad_enabled()
    to = logits.flatten(0, -2) if straight else flat
    about = distance, numbers, certain, (straight, straight and last)
    return _ByPosition.apply(to, flat.detach(), beside, about, *of)


class _ByPosition(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 (torch's own)
        _: Tensor,
        log_q: Tensor,
        beside: Tensor | None,
        about: tuple[Distance, Tensor | None, Certain | None, tuple[bool, bool]],
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
            rows, tokens = _others(certain, log_q, numbers)
            own = certain.distance(log_q[rows, tokens])
            out = out.index_copy_(0, rows, own.to(out.dtype))
        return out.index_copy_(0, numbers, values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        (log_q, beside, *of), (distance, numbers, certain, how) = ctx.saved_tensors, ctx.about
        straight, last = how
        out, own = log_q, None if beside is None else torch.zeros_like(beside)
        if not last:
            out = torch.zeros_like(log_q)
        elif certain is None and numbers is not None:
            out.index_fill_(0, _left(log_q, numbers), 0.0)
        if certain is not None:
            rows, tokens = _others(certain, log_q, numbers)
            _put_certain(out, log_q, (rows, tokens), certain.distance, gradient, straight)
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
    out: Tensor,
    log_q: Tensor,
    at: tuple[Tensor, Tensor],
    distance: Callable[[Tensor], Tensor],
    gradient: Tensor,
    straight: bool,
) -> None:
    """The gradient of a distance from the tokens at some positions, put into `out`."""
    rows, tokens = at
    with torch.enable_grad():
        known = log_q[rows, tokens].detach().requires_grad_()
        (slope,) = torch.autograd.grad(distance(known).sum(), known)
    slope = (slope * gradient[rows]).to(out.dtype)
    if straight:
        for some in chunks(log_q, rows):
            here = rows[some]
            out[here] = log_q[here].exp_().mul_(-slope[some, None])
    out.index_put_((rows, tokens), slope, accumulate=True)


def _others(certain: Certain, log_q: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """The positions that are not among the numbers, and their tokens; nothing waits."""
    rows = _left(log_q, numbers)
    return rows, certain.tokens.index_select(0, rows)


def _left(log_q: Tensor, numbers: Tensor) -> Tensor:
    """The positions that are not among the numbers."""
    left = torch.ones(len(log_q), dtype=torch.bool, device=log_q.device)
    left = left.index_fill_(0, numbers, False)
    return left.nonzero_static(size=len(log_q) - len(numbers))[:, 0]


def chunks(log_q: Tensor, numbers: Tensor | None = None) -> list[slice]:
    """Which of the positions (N, K), or of `numbers` of them, are looked at together."""
    count = log_q.shape[0] if numbers is None else numbers.shape[0]
    size = ON_CPU if log_q.device.type == "cpu" else ELSEWHERE
    size = max(1, size // log_q.shape[-1])
    return [slice(start, min(start + size, count)) for start in range(0, max(count, 1), size)]
