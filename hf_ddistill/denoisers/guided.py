"""Classifier-free guidance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hf_ddistill.denoisers.composite import Ask, Composite
from hf_ddistill.denoisers.denoiser import Denoiser
from hf_ddistill.denoisers.log_linear import log_linear
from hf_ddistill.parameterizations import Prediction


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

    Raises:
        ValueError: for a scale that is no finite number; when it is called without `class_labels`.
    """

    denoiser: Denoiser
    scale: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.scale):
            raise ValueError(f"scale, of guidance, must be finite, got {self.scale}.")

    def combine(self, ask: Ask, condition: Mapping[str, Any]) -> Prediction:
        """The guided prediction, of two calls."""
        if "class_labels" not in condition:
            raise ValueError(
                "Guidance needs class_labels, which it compares with the null class; the call has "
                f"{', '.join(condition) or 'no condition'}."
            )
        free = {key: value for key, value in condition.items() if key != "class_labels"}
        said = ask(self.denoiser, condition), ask(self.denoiser, free)
        return log_linear(said, (1 + self.scale, -self.scale), slice(1))

    @property
    def conditions(self) -> frozenset[str]:
        """The class, too."""
        return super().conditions | {"class_labels"}

    @property
    def description(self) -> str:
        """The denoiser and the scale."""
        return f"{self.denoiser.description} guided by {self.scale}"
