"""Noise schedules: t in [0, 1] to the total noise sigma(t), with sigma increasing and alpha =
exp(-sigma).

`rate` is d sigma / dt in closed form and `inverse` is the time at which a total noise is reached,
0 or 1 for one that lies beyond the ends. All in float64; sigma(1) is at most 690, so that alpha and
1 / alpha are numbers. The forms are those of SEDD (Lou et al., 2024, arXiv 2310.16834) and MDLM
(Sahoo et al., 2024, arXiv 2406.07524).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from hf_ddistill.configurable import Configurable

#: The least share of the data that may be left at t = 1: not far below, float64 has only 0.
LEAST = 1e-300


class Schedule(Configurable, ABC):
    """t -> sigma(t); a member gives the total noise, its derivative and its inverse."""

    sized: ClassVar[bool] = False

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Total noise at t, float64."""

    @abstractmethod
    def rate(self, t: Tensor) -> Tensor:
        """d sigma / dt at t, float64; infinite where noise comes infinitely fast."""

    @abstractmethod
    def inverse(self, sigma: Tensor) -> Tensor:
        """The t at which sigma(t) = sigma, float64; 0 or 1 where sigma is never met."""

    def alpha(self, t: Tensor) -> Tensor:
        """exp(-sigma(t)): the share of a token's information that is left."""
        return torch.exp(-self.sigma(t))


def double(t: Tensor | float) -> Tensor:
    """A time or noise as a tensor, float64."""
    return torch.as_tensor(t, dtype=torch.float64)


def check_between(name: str, value: float, low: float, high: float) -> None:
    """Raise unless a setting lies strictly between two numbers."""
    if not max(low, LEAST) <= value < high:
        raise ValueError(f"{name} must lie strictly between {low} and {high}, got {value}.")


def check_ordered(low: float, high: float, zero: bool) -> None:
    """Raise unless two ends of the total noise are ones."""
    if not (low < high and (low >= 0 if zero else low > 0)):
        raise ValueError(
            f"sigma_min={low} must be {'at least' if zero else 'above'} 0 and below "
            f"sigma_max={high}."
        )
    most = -math.log(LEAST)
    if not high <= most:
        raise ValueError(
            f"sigma_max={high} leaves exp(-sigma_max) of the data, which is 0 in float64; it goes "
            f"up to {most:.0f}."
        )
