"""The two times of a step."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_ddistill.diffusion import times_at


def interval(s: Tensor | float, t: Tensor | float, x_t: Tensor) -> tuple[Tensor, Tensor]:
    """s and t as float64 of one shape: () stay on the CPU, (B,) go to the device of `x_t`.

    Raises:
        ValueError: unless s precedes t, and both lie in [0, 1].
    """
    s, t = torch.broadcast_tensors(times_at(s, x_t), times_at(t, x_t))
    if s.device.type == t.device.type == "cpu" and bool((s >= t).any()):
        first = (s >= t).flatten().nonzero()[0, 0]
        raise ValueError(
            f"s={float(s.flatten()[first]):.4g} must precede t={float(t.flatten()[first]):.4g}."
        )
    return s, t
