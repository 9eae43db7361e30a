"""Another sampler whose last step takes the likeliest tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from hf_ddistill.denoisers import Denoiser
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.parameterizations import Prediction
from hf_ddistill.samplers.around import Around
from hf_ddistill.samplers.chances import Chances
from hf_ddistill.samplers.sampler import Sampler, look
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

    def known_chances(
        self, diffusion: Diffusion, s: Tensor | float, t: Tensor | float
    ) -> Chances | None:
        """Those of the base, but none to s = 0, where tokens are not drawn."""
        return None if _is_last(s) else self.base.known_chances(diffusion, s, t)

    def probs(
        self,
        prediction: Prediction,
        diffusion: Diffusion,
        x_t: Tokens,
        s: Tensor | float,
        t: Tensor | float,
    ) -> Probs:
        """Those of the base; to s = 0 certainty of the likeliest token."""
        if not _is_last(s):
            return self.base.probs(prediction, diffusion, x_t, s, t)
        taken = _likeliest(prediction, diffusion, x_t)
        probs = torch.zeros_like(prediction.log_conditional)
        return probs.scatter(-1, taken[..., None], 1.0)

    def advance(
        self,
        prediction: Prediction,
        diffusion: Diffusion,
        x_t: Tokens,
        s: Tensor | float,
        t: Tensor | float,
        generator: Generators = None,
    ) -> Tokens:
        """That of the base, or the likeliest tokens."""
        if _is_last(s):
            return _likeliest(prediction, diffusion, x_t)
        return self.base.advance(prediction, diffusion, x_t, s, t, generator)

    def step(
        self,
        denoiser: Denoiser,
        x_t: Tokens,
        s: Tensor | float,
        t: Tensor | float,
        generator: Generators = None,
        **condition: Any,
    ) -> Tokens:
        """That of the base, or the likeliest tokens by one call."""
        if not _is_last(s):
            return self.base.step(denoiser, x_t, s, t, generator, **condition)
        said = look(denoiser, x_t, t, generator, **condition)
        return _likeliest(said, denoiser.diffusion, x_t)


def _is_last(s: Tensor | float) -> bool:
    return not bool(torch.as_tensor(s).any())


def _likeliest(prediction: Prediction, diffusion: Diffusion, x_t: Tokens) -> Tokens:
    likeliest = prediction.log_conditional.argmax(-1)
    return torch.where(diffusion.undetermined(x_t), likeliest, x_t)
