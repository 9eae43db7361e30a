"""The student's own entropy beside a distance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from hf_ddistill.objectives.by_position import by_position
from hf_ddistill.objectives.weightings.weighting import Weighting


@dataclass(frozen=True)
class Entropy(Weighting):
    """D(p, q) - strength H(q), at every position of the student: a student that is less sure.

    Beside the reverse KL its optimum is q ~ p^(1 / (1 + strength)), the teacher at the temperature
    1 + strength.

    Args:
        strength: in nats of distance for each of entropy; below 0 it sharpens.

    Raises:
        ValueError: for a strength of -1 or less, whose optimum is one token.
    """

    strength: float = 0.05
    citation: ClassVar[str] = (
        "Pereyra et al., Regularizing Neural Networks by Penalizing Confident Output "
        "Distributions, 2017, arXiv:1701.06548"
    )

    def __post_init__(self) -> None:
        if not -1 < self.strength < math.inf:
            raise ValueError(f"strength must be above -1, got {self.strength}.")

    def regularised(self, distance: Tensor, log_q: Tensor) -> Tensor:
        def negative_entropy(_: slice, log_q: Tensor) -> Tensor:
            return (log_q.exp() * log_q).sum(-1)

        return distance + self.strength * by_position(negative_entropy, log_q)[:, None]
