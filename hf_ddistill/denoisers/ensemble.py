"""Several denoisers as one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hf_ddistill.denoisers.composite import Ask, Composite
from hf_ddistill.denoisers.denoiser import Denoiser
from hf_ddistill.denoisers.log_linear import check_agree, log_linear
from hf_ddistill.parameterizations import Prediction


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
        check_agree("an ensemble", self.denoisers)

    def combine(self, ask: Ask, condition: Mapping[str, Any]) -> Prediction:
        """The normalised mean of all."""
        said = [ask(each, condition) for each in self.denoisers]
        return log_linear(said, [1 / len(said)] * len(said))

    @property
    def description(self) -> str:
        """All of them, with a plus between them."""
        return " + ".join(each.description for each in self.denoisers)
