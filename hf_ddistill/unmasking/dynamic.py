"""Rules that decide as many tokens as the network is sure of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hf_ddistill.shapes import Where
from hf_ddistill.unmasking.unmasking import Draft, Unmasking, largest


@dataclass(frozen=True)
class Threshold(Unmasking):
    """Every token whose probability is above a threshold, and in any case the surest, as many as
    the planned calls make necessary: one, if there is a call for each token of a block.

    With fewer calls for a block it is SDAR's "low_confidence_dynamic".

    Args:
        threshold: in [0, 1]; 0 decides all at once, 1 one token a call.
    """

    threshold: float = 0.9
    picks_one: ClassVar[bool] = True
    id: ClassVar[str] = "threshold"
    citation: ClassVar[str] = "Wu et al., Fast-dLLM, 2025, arXiv:2505.22618"

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must lie in [0, 1], got {self.threshold}.")

    def pick(self, draft: Draft) -> Where:
        least = largest(draft.confidence, draft.open, draft.due)
        return (draft.confidence > self.threshold) | least
