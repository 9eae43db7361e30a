"""The total noise grows linearly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hf_ddistill.schedules.schedule import Schedule, check_ordered, double


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
        check_ordered(self.sigma_min, self.sigma_max, zero=True)

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_min + double(t) * (self.sigma_max - self.sigma_min)

    def rate(self, t: Tensor) -> Tensor:
        return torch.full_like(double(t), self.sigma_max - self.sigma_min)

    def inverse(self, sigma: Tensor) -> Tensor:
        share = (double(sigma) - self.sigma_min) / (self.sigma_max - self.sigma_min)
        return share.clamp(0, 1)
