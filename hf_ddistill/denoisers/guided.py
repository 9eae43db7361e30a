"""Classifier-free guidance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from hf_ddistill.denoisers.composite import Ask, Composite
from hf_ddistill.denoisers.denoiser import Denoiser
from hf_ddistill.parameterizations import Prediction
from hf_ddistill.shapes import LOG_ZERO


@dataclass(frozen=True)
class Guided(Composite):
    """Classifier-free guidance: log p is proportional to (1 + w) log p(x_0 | x_t, c) - w log p(x_0
    | x_t).

    Two network calls for each prediction. A sampler, a coupling or an objective takes it where it
    takes a `Denoiser`.

    References: Ho, Salimans, Classifier-Free Diffusion Guidance, 2022, arXiv:2207.12598; Nisonoff
    et al., Unlocking Guidance for Discrete State-Space Diffusion, 2024, arXiv:2406.01572.

    Args:
        denoiser: takes `class_labels`; called without them it must predict for the null class.
        scale: w; 0 is the conditional model itself.
    """

    denoiser: Denoiser
    scale: float

    def combine(self, ask: Ask, condition: Mapping[str, Any]) -> Prediction:
        """The guided prediction, of two calls."""
        free = {key: value for key, value in condition.items() if key != "class_labels"}
        return self._mixed(ask(self.denoiser, condition), ask(self.denoiser, free))

    @property
    def description(self) -> str:
        """The denoiser and the scale."""
        return f"{self.denoiser.description} guided by {self.scale}"

    def _mixed(self, given: Prediction, free: Prediction) -> Prediction:
        mixed = (1 + self.scale) * given.log_conditional - self.scale * free.log_conditional
        # What is impossible stays impossible, whatever the scale.
        impossible = given.log_conditional <= LOG_ZERO / 2
        return Prediction(torch.where(impossible, given.log_conditional, mixed).log_softmax(-1))
