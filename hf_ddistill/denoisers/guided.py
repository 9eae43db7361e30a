"""Classifier-free guidance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hf_ddistill.denoisers.denoiser import Denoiser
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.parameterizations import Prediction
from hf_ddistill.shapes import LOG_ZERO, Generators, Tokens


@dataclass(frozen=True)
class Guided(Denoiser):
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

    @property
    def diffusion(self) -> Diffusion:
        """That of the denoiser."""
        return self.denoiser.diffusion

    def fresh_noise(self, x_t: Tokens, generator: Generators = None) -> dict[str, Tensor]:
        """That of the denoiser; both of its calls get the same."""
        return self.denoiser.fresh_noise(x_t, generator)

    def __call__(self, x_t: Tokens, t: Tensor | float, **condition: Any) -> Prediction:
        given = self.denoiser(x_t, t, **condition)
        return self._mixed(given, self.denoiser(x_t, t, **_unconditional(condition)))

    def at(self, x_t: Tokens, t: Tensor | float, where: Tensor, **condition: Any) -> Prediction:
        """The guided prediction at the positions of `where` alone: (N, 1, K)."""
        given = self.denoiser.at(x_t, t, where, **condition)
        return self._mixed(given, self.denoiser.at(x_t, t, where, **_unconditional(condition)))

    def _mixed(self, given: Prediction, free: Prediction) -> Prediction:
        mixed = (1 + self.scale) * given.log_conditional - self.scale * free.log_conditional
        # What is impossible stays impossible, whatever the scale.
        impossible = given.log_conditional <= LOG_ZERO / 2
        return Prediction(torch.where(impossible, given.log_conditional, mixed).log_softmax(-1))


def _unconditional(condition: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in condition.items() if key != "class_labels"}
