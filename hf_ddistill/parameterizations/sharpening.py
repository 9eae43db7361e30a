"""Temperature, top-k and top-p on log p(x_0 | x_t), (..., K)."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_ddistill.shapes import LOG_ZERO

#: How many numbers are worked on at a time, so that what is needed on the way stays small.
CHUNK = 2**20
#: How many of the likeliest tokens are looked at first for `top_p`.
FEW = 256


def check_sharpening(temperature: float, top_k: int | None, top_p: float) -> None:
    """Raise for a temperature, top-k or top-p out of its range."""
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"`temperature` must be at least 0 and finite, got {temperature}.")
    if top_k is not None and top_k < 0:
        raise ValueError(f"`top_k` must be None or at least 0 (both keep all), got {top_k}.")
    if not 0 < top_p <= 1:
        raise ValueError(f"`top_p` must lie in (0, 1] (1 keeps all), got {top_p}.")


def sharpened(
    log_p: Tensor, temperature: float = 1.0, top_k: int | None = None, top_p: float = 1.0
) -> Tensor:
    """p^(1 / temperature), of that the `top_k` likeliest tokens, of those the fewest with `top_p`.

    Of tokens that are equally likely the first ones are kept.

    Args:
        log_p: logits or log-probabilities (..., K); -inf is allowed.
        temperature: 0 leaves the likeliest token alone.
        top_k: None or 0 keeps all.
        top_p: in (0, 1]; the token that crosses it is kept.

    Returns:
        Normalised log-probabilities, `LOG_ZERO` for what was removed.
    """
    if temperature == 0:
        likeliest = log_p.argmax(-1, keepdim=True)
        return torch.full_like(log_p, LOG_ZERO).scatter(-1, likeliest, 0.0)
    if torch.is_grad_enabled() and log_p.requires_grad:
        return _sharpened(log_p, temperature, top_k, top_p)
    # One tensor of this size is made, and no other.
    rows, out = log_p.reshape(-1, log_p.shape[-1]), torch.empty_like(log_p)
    to, chunk = out.view(-1, log_p.shape[-1]), CHUNK if out.device.type == "cpu" else 16 * CHUNK
    some = max(1, chunk // log_p.shape[-1])
    for start in range(0, len(rows), some):
        part = rows[start : start + some]
        to[start : start + some] = _sharpened(part, temperature, top_k, top_p)
    return out


def _sharpened(log_p: Tensor, temperature: float, top_k: int | None, top_p: float) -> Tensor:
    if temperature > 1:  # which must not bring back what was removed
        log_p = log_p.masked_fill(log_p <= LOG_ZERO / 2, -torch.inf)
    if temperature != 1:
        log_p = log_p / temperature
    if top_k and top_k < log_p.shape[-1]:
        least = log_p.detach().topk(top_k, dim=-1).values[..., -1:]
        log_p = _first(log_p, least, torch.full_like(least, top_k, dtype=torch.int64))
    log_p = log_p.log_softmax(-1)
    if top_p < 1:
        log_p = _first(log_p, *_nucleus(log_p.detach(), top_p)).log_softmax(-1)
    return log_p.clamp_min(LOG_ZERO)


def _first(log_p: Tensor, least: Tensor, count: Tensor) -> Tensor:
    """The `count` (..., 1) likeliest, down to the log-probability `least` (..., 1); -inf else."""
    kept = log_p >= least
    # Elsewhere than on the CPU it is quicker to count than to wait and see.
    if log_p.device.type != "cpu" or bool((kept.sum(-1, keepdim=True) > count).any()):
        above = log_p > least
        room = count - above.sum(-1, keepdim=True)
        kept = above | (kept & ((kept & ~above).cumsum(-1) <= room))
    return log_p.masked_fill(~kept, -torch.inf)


def _nucleus(log_p: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """The log-probability of the last token of those that hold `top_p`, and their number, (..., 1).

    Tokens of at most (1 - top_p) / K hold at most 1 - top_p together, so that no other need be put
    in order, and often far fewer do.
    """
    size = log_p.shape[-1]
    most = size
    if log_p.device.type == "cpu":
        bound = torch.log(torch.tensor((1 - top_p) / size, dtype=torch.float64))
        most = max(1, int((log_p > float(bound) - 1e-3).sum(-1).max()))
    for number in (min(FEW, most), most):
        # In float64: sums of many small numbers decide.
        ordered = log_p.topk(number, dim=-1).values
        likelier = ordered.double().exp().cumsum(-1)
        if number == most or bool((likelier[..., -1] >= top_p).all()):
            break
    count = (likelier < top_p).sum(-1, keepdim=True).clamp_max(number - 1) + 1
    return ordered.gather(-1, count - 1), count
