"""The share of the data falls as a sine rises: Duo's cosine."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hf_ddistill.schedules.schedule import Schedule, check_between, double


@dataclass(frozen=True)
class Sine(Schedule):
    """alpha = 1 - sin(pi (1 - eps) t / 2): what Duo's code calls cosine, fastest near the data.

    Args:
        eps: how far the sine stops short of its top at t = 1, in (0, 1).
    """

    eps: float = 1e-3
    citation: ClassVar[str] = "Sahoo et al., The Diffusion Duality, 2025, arXiv:2506.10892"

    def __post_init__(self) -> None:
        check_between("eps", self.eps, 1e-6, 1.0)

    def sigma(self, t: Tensor) -> Tensor:
        angle = (1 - self.eps) * double(t) * math.pi / 2
        # 1 - sin without cancellation late, and nearly 0 without it early.
        late = -torch.log(2 * torch.sin((math.pi / 2 - angle) / 2) ** 2)
        return torch.where(double(t) < 0.5, -torch.log1p(-torch.sin(angle)), late)

    def rate(self, t: Tensor) -> Tensor:
        left = (1 - (1 - self.eps) * double(t)) * math.pi / 4
        return (1 - self.eps) * math.pi / 2 / torch.tan(left)

    def inverse(self, sigma: Tensor) -> Tensor:
        gone = (-torch.expm1(-double(sigma))).clamp(0, 1)
        return (torch.arcsin(gone) * 2 / math.pi / (1 - self.eps)).clamp(0, 1)
