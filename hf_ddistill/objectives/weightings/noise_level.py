"""A weight that the noise of a row decides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from hf_ddistill.couplings import TrainingStep
from hf_ddistill.objectives.weightings.weighting import Weighting
from hf_ddistill.shapes import Times


@dataclass(frozen=True)
class NoiseLevel(Weighting):
    """w(t) = (1 - alpha_t)^power, with 1 - alpha_t the share of tokens that noise has replaced.

    Under masks a row's loss has about so many tokens: at power -1, the likelihood's weight of a
    log-linear schedule, a row counts the same at every t, and above 0 the first calls count most.

    Args:
        power: at least -1.

    Raises:
        ValueError: for less.
    """

    power: float = -1.0
    citation: ClassVar[str] = (
        "Kingma, Gao, Understanding Diffusion Objectives as the ELBO with Simple Data "
        "Augmentation, 2023, arXiv:2303.00848"
    )

    def __post_init__(self) -> None:
        if not self.power >= -1:
            raise ValueError(f"power must be at least -1, got {self.power}.")

    def of_time(self, step: TrainingStep, t: Times) -> Times:
        return (-torch.expm1(-step.diffusion.schedule.sigma(t))) ** self.power
