"""The share of the data falls linearly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hf_ddistill.schedules.schedule import Schedule, check_between, double


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
        check_between("eps", self.eps, 0.0, 1.0)
        if 1 - self.eps == 1:
            raise ValueError(f"eps={self.eps} is too small: 1 - eps is 1 in float64; take 1e-12.")

    def sigma(self, t: Tensor) -> Tensor:
        return -torch.log1p(-(1 - self.eps) * double(t))

    def rate(self, t: Tensor) -> Tensor:
        return (1 - self.eps) / (1 - (1 - self.eps) * double(t))

    def inverse(self, sigma: Tensor) -> Tensor:
        return (-torch.expm1(-double(sigma)) / (1 - self.eps)).clamp(0, 1)
