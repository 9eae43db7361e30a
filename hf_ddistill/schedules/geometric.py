"""The total noise grows geometrically."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hf_ddistill.schedules.schedule import Schedule, check_ordered, double


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
        check_ordered(self.sigma_min, self.sigma_max, zero=False)

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_min ** (1 - double(t)) * self.sigma_max ** double(t)

    def rate(self, t: Tensor) -> Tensor:
        return self.sigma(t) * math.log(self.sigma_max / self.sigma_min)

    def inverse(self, sigma: Tensor) -> Tensor:
        share = torch.log(double(sigma) / self.sigma_min) / math.log(
            self.sigma_max / self.sigma_min
        )
        return share.clamp(0, 1)
