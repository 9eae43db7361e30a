"""A denoiser moved as tuning moved a smaller one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hf_ddistill.denoisers.composite import Ask, Composite
from hf_ddistill.denoisers.denoiser import Denoiser
from hf_ddistill.denoisers.log_linear import check_agree, log_linear
from hf_ddistill.parameterizations import Prediction


@dataclass(frozen=True)
class Proxy(Composite):
    """log p = log p_base + weight (log p_tuned - log p_untuned) + const.

    Three network calls for each prediction, which a student that is trained on it does not pay: a
    large model is tuned, for its student, by what a small one has learned. What is impossible for
    the base stays impossible. Students and auxiliaries start as the tuned one.

    References: Liu et al., Tuning Language Models by Proxy, 2024, arXiv:2401.08565.

    Args:
        base: the large one.
        tuned: a small one after tuning, and
        untuned: before it; all of one diffusion and without a noise input.
        weight: of the difference; 0 is the base itself.

    Raises:
        ValueError: if they differ in vocabulary or diffusion, or one takes noise; for a weight that
            is no finite number.
    """

    base: Denoiser
    tuned: Denoiser
    untuned: Denoiser
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.weight):
            raise ValueError(f"weight, of a proxy, must be finite, got {self.weight}.")
        check_agree("a proxy", self.parts)

    def combine(self, ask: Ask, condition: Mapping[str, Any]) -> Prediction:
        """The base's prediction, moved."""
        said = [ask(part, condition) for part in self.parts]
        return log_linear(said, (1.0, self.weight, -self.weight), slice(1))

    @property
    def copied(self) -> Denoiser:
        """The tuned one, the nearest to what it says."""
        return self.tuned
