"""The contract of a coupling: how (x_t, x_s) with s < t are drawn from clean data.

A coupling gives x_t at once, and x_s when it is told what the student predicts at x_t, so that a
step drawn from the student costs no second network call.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeAlias

from hf_ddistill.configurable import Configurable
from hf_ddistill.couplings.training_step import Local, TrainingStep
from hf_ddistill.shapes import Times, Tokens

Past: TypeAlias = Callable[[Local], Tokens]


class Coupling(Configurable, ABC):
    """A law of pairs (x_t, x_s)."""

    @abstractmethod
    def draw(self, step: TrainingStep, s: Times, t: Times) -> tuple[Tokens, Past]:
        """x_t (B, L), and a function from the student's prediction at x_t to x_s (B, L)."""
