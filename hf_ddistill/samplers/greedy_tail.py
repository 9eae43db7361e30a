"""Another sampler whose last step takes the likeliest tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from hf_ddistill.diffusion import Diffusion
from hf_ddistill.parameterizations import Prediction
from hf_ddistill.samplers.around import Around
from hf_ddistill.samplers.sampler import Sampler
from hf_ddistill.shapes import Generators, Probs, Tokens


@dataclass(frozen=True)
class GreedyTail(Around, Sampler):
    """The steps of a sampler, and behind them x_0 = argmax p(x_0 | x_t) at each position that is
    not certain.

    What noise is left at the last time is taken out without a draw. As a rule the samples lose
    entropy, the more of it the earlier the last step begins: of n even steps under masking
    about L / n positions are taken greedily, with one step all of them, and every sample is the
    same. A better likelihood at a lower entropy is no better sampler (docs/results/samplers.md).

    Args:
        base: the sampler of all other steps, by name, settings or as it is.
    """

    base: Sampler | Mapping[str, Any] | str = "ancestral"
    id: ClassVar[str] = "greedy_tail"
    citation: ClassVar[str] = "Sahoo et al., The Diffusion Duality, 2025, arXiv:2506.10892"

    def toward(self, s: Tensor | float) -> Sampler:
        """The base, and to s = 0 the likeliest tokens."""
        return self.base if bool(torch.as_tensor(s).any()) else _Likeliest()


class _Likeliest(Sampler):
    """The likeliest tokens at each position that is not certain."""

    def probs(
        self,
        prediction: Prediction,
        diffusion: Diffusion,
        x_t: Tokens,
        s: Tensor | float,
        t: Tensor | float,
    ) -> Probs:
        """Certainty of them."""
        taken = self.advance(prediction, diffusion, x_t, s, t)
        return torch.zeros_like(prediction.log_conditional).scatter(-1, taken[..., None], 1.0)

    def advance(
        self,
        prediction: Prediction,
        diffusion: Diffusion,
        x_t: Tokens,
        s: Tensor | float,
        t: Tensor | float,
        generator: Generators = None,
    ) -> Tokens:
        """Without a draw."""
        likeliest = prediction.log_conditional.argmax(-1)
        return torch.where(diffusion.undetermined(x_t), likeliest, x_t)
