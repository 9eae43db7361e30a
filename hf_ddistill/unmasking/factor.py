"""Fast-dLLM's bound on how many sure tokens can be decided together.

c_(1) >= c_(2) >= ... the probabilities of the drawn tokens of the open positions, sorted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from hf_ddistill.shapes import Where
from hf_ddistill.unmasking.unmasking import Draft, Unmasking, largest


@dataclass(frozen=True)
class Factor(Unmasking):
    """The n surest tokens, for the greatest n that keeps (n + 1) times their doubt small.

        (n + 1) (1 - c_(n)) < factor

    with c_(n) the probability of the n-th; and the surest in any case. With factor 1 and likeliest
    tokens, the n tokens together are the likeliest n-tuple of *any* joint law with these marginals
    (their theorem 1), and for no greater factor that is so.

    Args:
        factor: above 0.
    """

    factor: float = 1.0
    id: ClassVar[str] = "factor"
    planned: ClassVar[bool] = False
    citation: ClassVar[str] = "Wu et al., Fast-dLLM, 2025, arXiv:2505.22618"

    def __post_init__(self) -> None:
        if not self.factor > 0:
            raise ValueError(f"factor must be above 0, got {self.factor}.")

    def pick(self, draft: Draft) -> Where:
        sure = draft.confidence.sort(dim=1, descending=True).values
        n = torch.arange(1, sure.shape[1] + 1, device=sure.device)
        within = ((n + 1) * (1 - sure) < self.factor) & (sure >= 0)
        return largest(draft.confidence, draft.masked, (within * n).amax(1))
