"""Temperature, top-k and top-p on log p(x_0 | x_t), (..., K)."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_ddistill.shapes import LOG_ZERO


def sharpened(
    log_p: Tensor, temperature: float = 1.0, top_k: int | None = None, top_p: float = 1.0
) -> Tensor:
    """p^(1 / temperature), of that the `top_k` likeliest tokens, of those the fewest with `top_p`.

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
    # Removed by -inf, which no temperature brings back.
    log_p = (log_p / temperature).masked_fill(log_p <= LOG_ZERO / 2, -torch.inf)
    if top_k and top_k < log_p.shape[-1]:
        kept = log_p.topk(top_k, dim=-1)
        log_p = torch.full_like(log_p, -torch.inf).scatter(-1, kept.indices, kept.values)
    log_p = log_p.log_softmax(-1)
    if top_p < 1:
        ordered = log_p.sort(dim=-1, descending=True, stable=True)
        likelier = ordered.values.exp().cumsum(-1) - ordered.values.exp()
        kept = ordered.values.masked_fill(likelier >= top_p, -torch.inf)
        log_p = torch.full_like(log_p, -torch.inf).scatter(-1, ordered.indices, kept)
        log_p = log_p.log_softmax(-1)
    return log_p.clamp_min(LOG_ZERO)
