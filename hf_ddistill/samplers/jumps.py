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
    prediction: Prediction, diffusion: Diffusion, x_t: Tokens, s: Tensor | float, t: Tensor | float
) -> Probs:
    """(t - s) R(x_t -> y), with R the reverse rate at t; 0 at y = x_t."""
    s, t = interval(s, t, x_t)
    rate = diffusion.reverse_rate(prediction.score(diffusion, x_t, t), x_t, t)
    width = (t - s).to(rate.dtype)
    width = width[:, None, None] if width.ndim else width
    return (rate * width).scatter(-1, x_t[..., None], 0.0)


def check_pace(name: str, diffusion: Diffusion) -> None:
    """Raise where noise comes infinitely fast at t = 1, where the first step begins."""
    pace = float(diffusion.schedule.rate(torch.ones((), dtype=torch.float64)).detach())
    if not math.isfinite(pace):
        raise ValueError(
            f"{name!r} steps take the rate of the noise, which is infinite at t = 1 under "
            f"{diffusion.schedule!r}; 'ancestral' and 'jump' steps take none."
        )
