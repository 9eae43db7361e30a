"""The schedulers of discrete flow matching."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hf_ddistill.schedules.schedule import Schedule, check_between, double


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
        check_between("eps", self.eps, 0.0, 1.0)
        if not 0 < self.power < math.inf:
            raise ValueError(f"power must be a finite number above 0, got {self.power}.")

    def sigma(self, t: Tensor) -> Tensor:
        return -torch.log(self.eps + (1 - self.eps) * (1 - double(t)) ** self.power)

    def rate(self, t: Tensor) -> Tensor:
        left = 1 - double(t)
        kappa = self.eps + (1 - self.eps) * left**self.power
        return (1 - self.eps) * self.power * left ** (self.power - 1) / kappa

    def inverse(self, sigma: Tensor) -> Tensor:
        kappa = ((torch.exp(-double(sigma)) - self.eps) / (1 - self.eps)).clamp(0, 1)
        return 1 - kappa ** (1 / self.power)
