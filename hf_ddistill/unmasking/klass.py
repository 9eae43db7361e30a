"""Decide what the network is sure of and has not changed its mind about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from hf_ddistill.shapes import Where
from hf_ddistill.unmasking.unmasking import Draft, Unmasking


@dataclass(frozen=True)
class KLASS(Unmasking):
    """The tokens whose probability is above `threshold` and whose prediction is stable.

        KL(p_now || p_before) < bound

    holds between this call and the one before in the block; none is stable at a block's first call,
    and the surest token is taken where there is no other. (The paper can ask for stability over
    several calls; here it is one.)

    Args:
        threshold: in [0, 1].
        bound: in nats, above 0.
    """

    threshold: float = 0.9
    bound: float = 0.01
    id: ClassVar[str] = "klass"
    planned: ClassVar[bool] = False
    compares: ClassVar[bool] = True
    citation: ClassVar[str] = (
        "Kim et al., KLASS: KL-Guided Fast Inference in Masked Diffusion Models, 2025, "
        "arXiv:2511.05664"
    )

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must lie in [0, 1], got {self.threshold}.")
        if not self.bound > 0:
            raise ValueError(f"bound must be above 0, got {self.bound}.")

    def pick(self, draft: Draft) -> Where:
        change = draft.change
        if change is None:
            return torch.zeros_like(draft.masked)
        return (draft.confidence > self.threshold) & (change < self.bound)
