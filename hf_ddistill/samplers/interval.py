"""The two times of a step."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_ddistill.diffusion import times


def interval(s: Tensor | float, t: Tensor | float, x_t: Tensor) -> tuple[Tensor, Tensor]:
    """s and t as float64 of one shape, on the device of `x_t`.

    Raises:
        ValueError: unless s precedes t, and both lie in [0, 1].
    """
    s, t = torch.broadcast_tensors(times(s).to(x_t.device), times(t).to(x_t.device))
    if bool((s >= t).any()):
        first = (s >= t).flatten().nonzero()[0, 0]
        raise ValueError(
            f"s={float(s.flatten()[first]):.4g} must precede t={float(t.flatten()[first]):.4g}."
        )
    return s, t
