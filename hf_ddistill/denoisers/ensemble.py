"""Several denoisers as one."""

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
class Ensemble(Composite):
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
            if each.latent is not None:
                raise ValueError(
                    f"A member of an ensemble takes noise, {each.latent.dim} numbers per "
                    f"{each.latent.per}; none is accepted: the mean of what two "
                    "draws of the noise plan is no plan."
                )

    def combine(self, ask: Ask, condition: Mapping[str, Any]) -> Prediction:
        """The normalised mean of all."""
        return self._mean([ask(each, condition) for each in self.denoisers])

    @property
    def description(self) -> str:
        """All of them, with a plus between them."""
        return " + ".join(each.description for each in self.denoisers)

    def _mean(self, predictions: list[Prediction]) -> Prediction:
        logs = torch.stack([each.log_conditional for each in predictions])
        # What is impossible for one is impossible.
        impossible = (logs <= LOG_ZERO / 2).any(0)
        mean = logs.mean(0).masked_fill(impossible, LOG_ZERO)
        return Prediction(mean.log_softmax(-1))
