"""Ancestral steps: exact where the posterior is a product over positions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from hf_ddistill.diffusion import Diffusion
from hf_ddistill.parameterizations import Prediction
from hf_ddistill.samplers.chances import Chances, posterior_chances
from hf_ddistill.samplers.posterior import draw_posterior, posterior, posterior_at
from hf_ddistill.samplers.sampler import Sampler
from hf_ddistill.shapes import Generators, PerToken, Probs, Tokens


class PosteriorSteps:
    """Mixed into a `Sampler`, before it: its rule is `posterior`."""

    def rule(
        self,
        prediction: Prediction,
        diffusion: Diffusion,
        x_t: Tokens,
        s: Tensor | float,
        t: Tensor | float,
    ) -> Probs:
        """See `posterior`."""
        return posterior(prediction, diffusion, x_t, s, t)

    def chances(self, diffusion: Diffusion, s: Tensor | float, t: Tensor | float) -> Chances:
        """See `posterior_chances`."""
        return posterior_chances(diffusion, s, t)

    def advance(
        self,
        prediction: Prediction,
        diffusion: Diffusion,
        x_t: Tokens,
        s: Tensor | float,
        t: Tensor | float,
        generator: Generators = None,
    ) -> Tokens:
        """See `draw_posterior`."""
        if diffusion.reveals:
            return super().advance(prediction, diffusion, x_t, s, t, generator)
        return draw_posterior(prediction, diffusion, x_t, s, t, generator)

    def prob_of(
        self,
        prediction: Prediction,
        diffusion: Diffusion,
        x_t: Tokens,
        x_s: Tokens,
        s: Tensor | float,
        t: Tensor | float,
    ) -> PerToken:
        """See `posterior_at`."""
        return posterior_at(prediction, diffusion, x_t, x_s, s, t)


@dataclass(frozen=True)
class Ancestral(PosteriorSteps, Sampler):
    """x_s ~ sum_{x_0} q(x_s | x_t, x_0) p(x_0 | x_t), position by position."""

    id: ClassVar[str] = "ancestral"
    citation: ClassVar[str] = "Austin et al., D3PM, 2021, arXiv:2107.03006"
