"""Every token whose position has little entropy left.

H_i the entropy in nats of p(x_0^i | x_t).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from hf_ddistill.shapes import Where
from hf_ddistill.unmasking.unmasking import Draft, Unmasking


@dataclass(frozen=True)
class EntropyThreshold(Unmasking):
    """Every position with H_i below a threshold, each by itself; `entropy_bounded` bounds the sum.

    d3LLM decodes several blocks at a time by it: `max_active_blocks` above 1.

    Args:
        threshold: in nats, 0 or more; 0 decides one token a call, infinity all at once.
    """

    threshold: float = 0.4
    id: ClassVar[str] = "entropy_threshold"
    planned: ClassVar[bool] = False
    citation: ClassVar[str] = (
        "Qian et al., d3LLM: Ultra-Fast Diffusion LLM using Pseudo-Trajectory Distillation, 2026, "
        "arXiv:2601.07568"
    )

    def __post_init__(self) -> None:
        if math.isnan(self.threshold) or self.threshold < 0:
            raise ValueError(f"threshold must be 0 nats or more, got {self.threshold}.")

    def pick(self, draft: Draft) -> Where:
        return draft.entropy < self.threshold
