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
    looks = s.device.type == t.device.type == "cpu" and not torch.compiler.is_compiling()
    if looks and bool((s >= t).any()):
        first = (s >= t).flatten().nonzero()[0, 0]
        raise ValueError(
            f"s={float(s.flatten()[first]):.4g} must precede t={float(t.flatten()[first]):.4g}."
        )
    return s, t


def to_data(s: Tensor | float) -> bool:
    """Whether a step ends at s = 0 in every row; nobody waits for a number."""
    return bool((s == 0).all()) if isinstance(s, Tensor) else s == 0
