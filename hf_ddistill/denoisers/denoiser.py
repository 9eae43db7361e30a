"""The contract of what predicts x_0."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor

from hf_ddistill.diffusion import Diffusion
from hf_ddistill.parameterizations import Prediction
from hf_ddistill.shapes import Generators, Tokens


class Denoiser(ABC):
    """(x_t, t, **condition) -> Prediction of x_0: a network, or what is made of several.

    Samplers, couplings and objectives take any of them.
    """

    diffusion: Diffusion

    @abstractmethod
    def __call__(self, x_t: Tokens, t: Tensor | float, **condition: Any) -> Prediction:
        """log p(x_0 | x_t) at every position, (B, L, K)."""

    @abstractmethod
    def at(self, x_t: Tokens, t: Tensor | float, where: Tensor, **condition: Any) -> Prediction:
        """The prediction at the N positions of `where` alone, as N rows of length 1: (N, 1, K)."""

    def fresh_noise(self, x_t: Tokens, generator: Generators = None) -> dict[str, Tensor]:
        """The condition `noise` of one call at x_t; empty without a noise input."""
        return {}
