"""A weight that the teacher's confidence decides, relative to the student's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hf_ddistill.objectives.weightings.weighting import Weighting


@dataclass(frozen=True)
class RelativeConfidence(Weighting):
    """v = 1 where log p(c) - log q(c) > margin at the teacher's likeliest token c, else `rest`:
    the student learns from the tokens that the teacher knows better.

    With rest = 0 nothing pulls back a student that is surer than its teacher.

    Args:
        margin: in nats.
        rest: what all others count, at least 0.

    Raises:
        ValueError: for a rest below 0.
    """

    margin: float = 0.0
    rest: float = 0.1
    citation: ClassVar[str] = (
        "Lin et al., Rho-1: Not All Tokens Are What You Need, 2024, arXiv:2404.07965"
    )

    def __post_init__(self) -> None:
        if not 0 <= self.rest < math.inf:
            raise ValueError(f"rest must be at least 0, got {self.rest}.")

    def of_tokens(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        known, token = log_p.max(-1, keepdim=True)
        return self._weight((known - log_q.gather(-1, token))[..., 0]).to(log_q.dtype)

    def of_certain(self, log_q: Tensor) -> Tensor:
        return self._weight(-log_q)

    def _weight(self, ahead: Tensor) -> Tensor:
        whole = torch.ones_like(ahead)
        return torch.where(ahead > self.margin, whole, self.rest * whole)
