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
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from hf_ddistill.configurable import Configurable

#: The least share of the data that may be left at t = 1: not far below, float64 has only 0.
LEAST = 1e-300


class Schedule(Configurable, ABC):
    """t -> sigma(t); a member gives the total noise, its derivative and its inverse."""

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


@dataclass(frozen=True)
class LogLinear(Schedule):
    """alpha = 1 - (1 - eps) t: under Absorbing, the share of masks grows linearly.

    Args:
        eps: what is left of the data at t = 1, in (0, 1) and large enough for 1 - eps to differ
            from 1 in float64. The default is that of SEDD and MDLM.
    """

    eps: float = 1e-3
    citation: ClassVar[str] = (
        "Lou et al., Discrete Diffusion Modeling by Estimating the Ratios, 2024, arXiv:2310.16834"
    )

    def __post_init__(self) -> None:
        _between("eps", self.eps, 0.0, 1.0)
        if 1 - self.eps == 1:
            raise ValueError(f"eps={self.eps} is too small: 1 - eps is 1 in float64; take 1e-12.")

    def sigma(self, t: Tensor) -> Tensor:
        return -torch.log1p(-(1 - self.eps) * _double(t))

    def rate(self, t: Tensor) -> Tensor:
        return (1 - self.eps) / (1 - (1 - self.eps) * _double(t))

    def inverse(self, sigma: Tensor) -> Tensor:
        return (-torch.expm1(-_double(sigma)) / (1 - self.eps)).clamp(0, 1)


@dataclass(frozen=True)
class Linear(Schedule):
    """sigma = sigma_min + t (sigma_max - sigma_min), with sigma(0) = sigma_min as MDLM has it (0
    by default here)."""

    sigma_min: float = 0.0
    sigma_max: float = 7.0
    citation: ClassVar[str] = (
        "Sahoo et al., Simple and Effective Masked Diffusion, 2024, arXiv:2406.07524"
    )

    def __post_init__(self) -> None:
        _ordered(self.sigma_min, self.sigma_max, zero=True)

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_min + _double(t) * (self.sigma_max - self.sigma_min)

    def rate(self, t: Tensor) -> Tensor:
        return torch.full_like(_double(t), self.sigma_max - self.sigma_min)

    def inverse(self, sigma: Tensor) -> Tensor:
        share = (_double(sigma) - self.sigma_min) / (self.sigma_max - self.sigma_min)
        return share.clamp(0, 1)


@dataclass(frozen=True)
class Cosine(Schedule):
    """alpha = eps + (1 - eps) cos(pi t / 2).

    Under Absorbing its equal steps are equal arcs of the Fisher-Rao geometry when squared
    (`power=2`).

    Args:
        eps: what is left of the data at t = 1, in (0, 1).
        power: of the cosine: 1, or 2 for MDLM's cosine-squared.
    """

    eps: float = 1e-3
    power: int = 1
    citation: ClassVar[str] = (
        "Sahoo et al., Simple and Effective Masked Diffusion, 2024, arXiv:2406.07524"
    )

    def __post_init__(self) -> None:
        _between("eps", self.eps, 0.0, 1.0)
        if self.power not in (1, 2):
            raise ValueError(f"power must be 1 (cosine) or 2 (cosine squared), got {self.power}.")

    def sigma(self, t: Tensor) -> Tensor:
        angle = _double(t) * math.pi / 2
        late = -torch.log(self.eps + (1 - self.eps) * torch.cos(angle) ** self.power)
        # 1 - cos and 1 - cos^2 without cancellation: noise must not be 0 where its rate is not.
        gone = torch.sin(angle) ** 2 if self.power == 2 else 2 * torch.sin(angle / 2) ** 2
        early = -torch.log1p(-(1 - self.eps) * gone)
        return torch.where(_double(t) < 0.5, early, late)

    def rate(self, t: Tensor) -> Tensor:
        angle = _double(t) * math.pi / 2
        slope = self.power * torch.cos(angle) ** (self.power - 1) * torch.sin(angle) * math.pi / 2
        return (1 - self.eps) * slope / (self.eps + (1 - self.eps) * torch.cos(angle) ** self.power)

    def inverse(self, sigma: Tensor) -> Tensor:
        cosine = ((torch.exp(-_double(sigma)) - self.eps) / (1 - self.eps)).clamp(0, 1) ** (
            1 / self.power
        )
        return torch.arccos(cosine) * 2 / math.pi


@dataclass(frozen=True)
class Geometric(Schedule):
    """sigma = sigma_min^(1 - t) sigma_max^t; the little noise sigma_min is already there at t =
    0."""

    sigma_min: float = 1e-4
    sigma_max: float = 20.0
    citation: ClassVar[str] = (
        "Lou et al., Discrete Diffusion Modeling by Estimating the Ratios, 2024, arXiv:2310.16834"
    )

    def __post_init__(self) -> None:
        _ordered(self.sigma_min, self.sigma_max, zero=False)

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_min ** (1 - _double(t)) * self.sigma_max ** _double(t)

    def rate(self, t: Tensor) -> Tensor:
        return self.sigma(t) * math.log(self.sigma_max / self.sigma_min)

    def inverse(self, sigma: Tensor) -> Tensor:
        share = torch.log(_double(sigma) / self.sigma_min) / math.log(
            self.sigma_max / self.sigma_min
        )
        return share.clamp(0, 1)


@dataclass(frozen=True)
class Polynomial(Schedule):
    """alpha = 1 - (1 - eps) (1 - (1 - t)^power): the scheduler kappa = (1 - t)^power of discrete
    flow matching.

    Args:
        power: 1 is LogLinear; 2 spends more time near the data. Below 1 noise comes infinitely fast
            at t = 1: steps that take a rate ('euler', 'tau_leaping') cannot start there.
        eps: what is left of the data at t = 1, in (0, 1).
    """

    power: float = 2.0
    eps: float = 1e-3
    citation: ClassVar[str] = "Gat et al., Discrete Flow Matching, 2024, arXiv:2407.15595"

    def __post_init__(self) -> None:
        _between("eps", self.eps, 0.0, 1.0)
        if not 0 < self.power < math.inf:
            raise ValueError(f"power must be a finite number above 0, got {self.power}.")

    def sigma(self, t: Tensor) -> Tensor:
        return -torch.log(self.eps + (1 - self.eps) * (1 - _double(t)) ** self.power)

    def rate(self, t: Tensor) -> Tensor:
        left = 1 - _double(t)
        kappa = self.eps + (1 - self.eps) * left**self.power
        return (1 - self.eps) * self.power * left ** (self.power - 1) / kappa

    def inverse(self, sigma: Tensor) -> Tensor:
        kappa = ((torch.exp(-_double(sigma)) - self.eps) / (1 - self.eps)).clamp(0, 1)
        return 1 - kappa ** (1 / self.power)


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
        before, after, share = self._segment(_double(t))
        return -torch.log((1 - share) * before + share * after)

    def rate(self, t: Tensor) -> Tensor:
        before, after, share = self._segment(_double(t))
        alpha = (1 - share) * before + share * after
        return (len(self.alphas) - 1) * (before - after) / alpha

    def inverse(self, sigma: Tensor) -> Tensor:
        alpha = torch.exp(-_double(sigma))
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


def _double(t: Tensor | float) -> Tensor:
    return torch.as_tensor(t, dtype=torch.float64)


def _between(name: str, value: float, low: float, high: float) -> None:
    if not max(low, LEAST) <= value < high:
        raise ValueError(f"{name} must lie strictly between {low} and {high}, got {value}.")


def _ordered(low: float, high: float, zero: bool) -> None:
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
