"""What the samplers share that follow the rate of the reverse process."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hf_ddistill.diffusion import Diffusion
from hf_ddistill.parameterizations import Prediction
from hf_ddistill.samplers.interval import interval
from hf_ddistill.shapes import Probs, Tokens


def expected_jumps(
    prediction: Prediction,
    diffusion: Diffusion,
    x_t: Tokens,
    s: Tensor | float,
    t: Tensor | float,
    power: Tensor | None = None,
) -> Probs:
    """(t - s) R(x_t -> y), with R the reverse rate at t, of scores to a power (B, 1, 1) if one is
    given; 0 at y = x_t."""
    s, t = interval(s, t, x_t)
    score = prediction.score(diffusion, x_t, t)
    rate = diffusion.reverse_rate(score if power is None else score.double() ** power, x_t, t)
    width = (t - s).to(rate.dtype)
    width = width[:, None, None] if width.ndim else width
    return (rate * width).scatter(-1, x_t[..., None], 0.0)


def cut_at_one(jumps: Probs, x: Tokens) -> Probs:
    """I + (t - s) R of expected jumps, 0 at `x`; what leaves x is at most 1."""
    leaving = jumps.sum(-1, keepdim=True)
    staying = (1 - leaving).clamp_min(0)
    return (jumps / leaving.clamp_min(1)).scatter(-1, x[..., None], staying)


def check_pace(name: str, diffusion: Diffusion) -> None:
    """Raise where noise comes infinitely fast at t = 1, where the first step begins."""
    pace = float(diffusion.schedule.rate(torch.ones((), dtype=torch.float64)).detach())
    if not math.isfinite(pace):
        raise ValueError(
            f"{name!r} steps take the rate of the noise, which is infinite at t = 1 under "
            f"{diffusion.schedule!r}; 'ancestral' and 'jump' steps take none."
        )


def first_jump(jumps: Probs, x: Tokens) -> Probs:
    """The law of a position that makes the first of its Poisson jumps, and no other.

    Args:
        jumps: r, the expected numbers of jumps to each token, 0 at `x`; (B, L, K).
        x: from where.

    Returns:
        r_y (1 - e^-r) / r with r = sum_y r_y, and e^-r at `x`.
    """
    total = jumps.sum(-1, keepdim=True)
    share = torch.where(total > 0, -torch.expm1(-total) / total, 1.0)
    return (jumps * share).scatter(-1, x[..., None], torch.exp(-total))


def check_share(theta: float, below_one: bool) -> None:
    """Raise unless theta is a share of a step at which a second call can be made."""
    if not 0 < theta <= 1 or (below_one and theta == 1):
        accepted = "in (0, 1)" if below_one else "in (0, 1]"
        raise ValueError(f"theta, the share of a step to its second call, is {accepted}: {theta}.")
