"""A kind of teacher that the package does not know: one file, and no other is touched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from hf_ddistill.denoisers import Composite, Denoiser
from hf_ddistill.parameterizations import Prediction
from hf_ddistill.shapes import LOG_ZERO


@dataclass(frozen=True)
class Proxy(Composite):
    """log p = log p_base + weight (log p_tuned - log p_untuned) + const.

    References: Liu et al., Tuning Language Models by Proxy, 2024, arXiv:2401.08565.
    """

    base: Denoiser
    tuned: Denoiser
    untuned: Denoiser
    weight: float = 1.0

    def combine(self, ask, condition: Mapping[str, Any]) -> Prediction:
        """The base's prediction, moved as tuning moved the small one's."""
        base, tuned, untuned = (ask(part, condition).log_conditional for part in self.parts)
        moved = base + self.weight * (tuned - untuned)
        return Prediction(torch.where(base <= LOG_ZERO / 2, base, moved).log_softmax(-1))

    def trainable_copy(self) -> Denoiser:
        """The tuned one: the nearest to what it says."""
        return self.tuned.trainable_copy()
