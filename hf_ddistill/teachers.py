"""What a student is aimed at, where it is more than a denoiser as it stands: denoisers made of
denoisers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from hf_ddistill.diffusion import Diffusion
from hf_ddistill.parameterizations import Conditional, Denoiser, Prediction
from hf_ddistill.shapes import LOG_ZERO, Generators, Tokens


@dataclass(frozen=True)
class Guided:
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


@dataclass(frozen=True)
class Ensemble:
    """Several denoisers as one: log p is the mean of theirs, normalised (a product of experts).

    log p(x_0 | x_t) = 1 / M sum_m log p_m(x_0 | x_t) + const

    M network calls for each prediction, which a student that is trained on it does not pay: what
    each member has learnt amiss by itself is averaged out of the target. An auxiliary starts as the
    first one.

    References: Hinton, Training Products of Experts by Minimizing Contrastive Divergence, 2002,
    doi:10.1162/089976602760128018.

    Args:
        denoisers: M of them, of one diffusion and without a noise input.

    Raises:
        ValueError: if there are none, they differ in their diffusion, or one takes noise.
    """

    denoisers: tuple[Denoiser, ...]

    def __post_init__(self) -> None:
        if not self.denoisers:
            raise ValueError("An ensemble needs at least one denoiser, got none.")
        for each in self.denoisers:
            if each.diffusion != self.diffusion:
                raise ValueError(
                    f"Denoisers of one ensemble must share one diffusion, got "
                    f"{self.diffusion.to_config()} and {each.diffusion.to_config()}."
                )
            if each.noise_dim:
                raise ValueError(
                    f"A member of an ensemble has noise_dim={each.noise_dim}; 0 is accepted: the "
                    "mean of what two draws of the noise plan is no plan."
                )

    @property
    def denoiser(self) -> Denoiser:
        """The first."""
        return self.denoisers[0]

    @property
    def diffusion(self) -> Diffusion:
        """That of all."""
        return self.denoiser.diffusion

    def fresh_noise(self, x_t: Tokens, generator: Generators = None) -> dict[str, Tensor]:
        """None: no member has a noise input."""
        return {}

    def __call__(self, x_t: Tokens, t: Tensor | float, **condition: Any) -> Prediction:
        return self._mean([each(x_t, t, **condition) for each in self.denoisers])

    def at(self, x_t: Tokens, t: Tensor | float, where: Tensor, **condition: Any) -> Prediction:
        """The mean at the positions of `where` alone: (N, 1, K)."""
        return self._mean([each.at(x_t, t, where, **condition) for each in self.denoisers])

    def _mean(self, predictions: list[Prediction]) -> Prediction:
        logs = torch.stack([each.log_conditional for each in predictions])
        # What is impossible for one is impossible.
        impossible = (logs <= LOG_ZERO / 2).any(0)
        mean = logs.mean(0).masked_fill(impossible, LOG_ZERO)
        return Prediction(mean.log_softmax(-1))


def _unconditional(condition: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in condition.items() if key != "class_labels"}


@dataclass(frozen=True)
class Autoregressive:
    """A causal language model's p(x^i | x^1 .. x^(i-1)), at clean tokens x, where the others take
    a denoiser's p(x_0^i | x_t).

    References: Su et al., Data-Efficient Autoregressive-to-Diffusion Language Models via
    On-Policy Distillation, 2026, arXiv:2606.06712.

    Args:
        denoiser: its network, called with `causal=True`, gives at i the logits of token i from
            the tokens before it, such as `BlockDiffusionLM`.
    """

    denoiser: Denoiser

    @property
    def diffusion(self) -> Diffusion:
        """That of the denoiser."""
        return self.denoiser.diffusion

    def fresh_noise(self, x: Tokens, generator: Generators = None) -> dict[str, Tensor]:
        """None: a causal language model has no noise input."""
        return {}

    def at(self, x: Tokens, t: Tensor | float, where: Tensor, **condition: Any) -> Prediction:
        """log p(x^i = k | x^1 .. x^(i-1)) at the N positions of `where`: (N, 1, K).

        The mask token has no probability; `t` is not looked at.
        """
        # Clean tokens are no answer here: nothing is carried over.
        bare = replace(self.denoiser, parameterization=Conditional())
        return bare.at(x, t, where, **condition, causal=True)

    def log_likelihood(self, x: Tokens, where: Tensor, **condition: Any) -> Tensor:
        """log p(x^i | x^1 .. x^(i-1)) at the positions of `where`, 0 elsewhere: (B, L)."""
        log_p = self.at(x, 0.0, where, **condition).log_conditional
        chosen = log_p.gather(-1, x[where][:, None, None])[:, 0, 0]
        return torch.zeros(x.shape, dtype=log_p.dtype, device=x.device).masked_scatter(
            where, chosen
        )
