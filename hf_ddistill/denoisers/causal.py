"""A causal language model where the others take a denoiser."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from hf_ddistill.denoisers.composite import Ask, Composite
from hf_ddistill.denoisers.denoiser import Denoiser
from hf_ddistill.parameterizations import Conditional, Prediction
from hf_ddistill.shapes import Tokens


@dataclass(frozen=True)
class Autoregressive(Composite):
    """A causal language model's p(x^i | x^1 .. x^(i-1)), at clean tokens x, where the others take
    a denoiser's p(x_0^i | x_t).

    References: Su et al., Data-Efficient Autoregressive-to-Diffusion Language Models via
    On-Policy Distillation, 2026, arXiv:2606.06712.

    Args:
        denoiser: its networks, called with `causal=True`, give at i the logits of token i from
            the tokens before it, such as `BlockDiffusionLM`.
    """

    denoiser: Denoiser

    def combine(self, ask: Ask, condition: Mapping[str, Any]) -> Prediction:
        """log p(x^i = k | x^1 .. x^(i-1)); the mask token has no probability."""
        # Clean tokens are no answer here: nothing is carried over.
        return ask(self.denoiser.read_as(Conditional()), {**condition, "causal": True})

    @property
    def latent(self) -> None:
        """None: a causal language model has no noise input."""
        return None

    def log_likelihood(self, x: Tokens, where: Tensor, **condition: Any) -> Tensor:
        """log p(x^i | x^1 .. x^(i-1)) at the positions of `where`, 0 elsewhere: (B, L)."""
        log_p = self.at(x, None, where, **condition).log_prob_of(x[where][:, None])[:, 0]
        return log_p.new_zeros(x.shape).masked_scatter(where, log_p)
