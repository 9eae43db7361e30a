"""The share of the data between given values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from hf_ddistill.schedules.schedule import LEAST, Schedule, double


@dataclass(frozen=True)
class PiecewiseLinear(Schedule):
    """alpha linear in t between given values at t = 0, 1 / n, ..., 1.

    Under Absorbing and n steps of equal times, the differences are the shares of tokens that each
    step reveals. With a tensor of values all is differentiable in them, so that they can be learned
    (`examples/benchmarks/law_matching.py`).

    Args:
        alphas: n + 1 falling values, from at most 1 down to what is left of the data at t = 1,
            above 0.
    """

    alphas: Sequence[float] | Tensor = (1.0, 0.5, 1e-3)
    citation: ClassVar[str] = (
        "hf_ddistill, Law matching of few-step discrete diffusion, 2026 (learned schedules)"
    )

    def __post_init__(self) -> None:
        if not isinstance(self.alphas, Tensor):
            object.__setattr__(self, "alphas", tuple(map(float, self.alphas)))
        values = self.alphas.tolist() if isinstance(self.alphas, Tensor) else list(self.alphas)
        falling = all(LEAST <= b < a <= 1 for a, b in pairwise(values))
        if len(values) < 2 or not falling:
            raise ValueError(
                f"alphas must be at least two falling values in (0, 1], got {values}; the last is "
                f"at least {LEAST}."
            )

    def sigma(self, t: Tensor) -> Tensor:
        before, after, share = self._segment(double(t))
        return -torch.log((1 - share) * before + share * after)

    def rate(self, t: Tensor) -> Tensor:
        before, after, share = self._segment(double(t))
        alpha = (1 - share) * before + share * after
        return (len(self.alphas) - 1) * (before - after) / alpha

    def inverse(self, sigma: Tensor) -> Tensor:
        alpha = torch.exp(-double(sigma))
        values = torch.as_tensor(self.alphas, dtype=alpha.dtype, device=alpha.device)
        left = torch.searchsorted(-values[1:-1].contiguous(), -alpha)
        share = (values[left] - alpha) / (values[left] - values[left + 1])
        return ((left + share) / (len(self.alphas) - 1)).clamp(0, 1)

    def _segment(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """alpha at the knots before and after t, and how far t is between."""
        values = torch.as_tensor(self.alphas, dtype=t.dtype, device=t.device)
        place = t * (len(self.alphas) - 1)
        left = place.floor().long().clamp(0, len(self.alphas) - 2)
        return values[left], values[left + 1], place - left
