"""A weight that the teacher's certainty decides."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from hf_ddistill.objectives.weightings.weighting import Weighting


@dataclass(frozen=True)
class Certainty(Weighting):
    """v = (1 - H(p) / log K)^power: what the teacher is sure of counts most.

    Args:
        power: above 0 as said; below 0 what it is unsure of counts most, at most `most` times.
        most: bound of v.

    Raises:
        ValueError: for a bound that is not above 0.
    """

    power: float = 1.0
    most: float = 10.0
    citation: ClassVar[str] = (
        "Zhong et al., Revisiting Knowledge Distillation for Autoregressive Language Models, 2024, "
        "arXiv:2402.11890"
    )

    def __post_init__(self) -> None:
        if not 0 < self.most < math.inf:
            raise ValueError(f"most, the bound of a weight, must be above 0, got {self.most}.")

    def of_tokens(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        entropy = -(log_p.exp() * log_p).sum(-1)
        sure = (1 - entropy / math.log(log_p.shape[-1])).clamp(0, 1)
        return (sure**self.power).clamp_max(self.most)
