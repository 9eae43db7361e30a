"""The share of the data falls as a cosine."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hf_ddistill.schedules.schedule import Schedule, check_between, double


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
        check_between("eps", self.eps, 0.0, 1.0)
        if self.power not in (1, 2):
            raise ValueError(f"power must be 1 (cosine) or 2 (cosine squared), got {self.power}.")

    def sigma(self, t: Tensor) -> Tensor:
        angle = double(t) * math.pi / 2
        late = -torch.log(self.eps + (1 - self.eps) * torch.cos(angle) ** self.power)
        # 1 - cos and 1 - cos^2 without cancellation: noise must not be 0 where its rate is not.
        gone = torch.sin(angle) ** 2 if self.power == 2 else 2 * torch.sin(angle / 2) ** 2
        early = -torch.log1p(-(1 - self.eps) * gone)
        return torch.where(double(t) < 0.5, early, late)

    def rate(self, t: Tensor) -> Tensor:
        angle = double(t) * math.pi / 2
        slope = self.power * torch.cos(angle) ** (self.power - 1) * torch.sin(angle) * math.pi / 2
        return (1 - self.eps) * slope / (self.eps + (1 - self.eps) * torch.cos(angle) ** self.power)

    def inverse(self, sigma: Tensor) -> Tensor:
        cosine = ((torch.exp(-double(sigma)) - self.eps) / (1 - self.eps)).clamp(0, 1) ** (
            1 / self.power
        )
        return torch.arccos(cosine) * 2 / math.pi
