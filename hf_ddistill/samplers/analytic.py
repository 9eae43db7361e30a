"""Analytic steps: Tweedie tau-leaping on the score."""

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


@dataclass(frozen=True)
class Analytic(Sampler):
    """(P_st^-1 score) * P_st[., x_t] (Theorem 4.2).

    The score of a prediction is w P_0t with w = p(x_0 | x_t) / P_0t[x_0, x_t], and P_0t is P_0s
    P_st: so P_st^-1 score is w P_0s, with no kernel inverted (many cannot be, near t = 1), and the
    step is the ancestral one.
    """

    id: ClassVar[str] = "analytic"
    citation: ClassVar[str] = "Lou et al., SEDD, 2023, arXiv:2310.16834"

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
