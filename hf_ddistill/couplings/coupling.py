"""The contract of a coupling: how (x_t, x_s) with s < t are drawn from clean data.

A coupling gives x_t at once, and x_s when it is told what the student predicts at x_t, so that a
step drawn from the student costs no second network call.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from hf_ddistill.configurable import Configurable
from hf_ddistill.couplings.training_step import Local, TrainingStep
from hf_ddistill.places import Places, places_of
from hf_ddistill.shapes import Times, Tokens


@dataclass(frozen=True)
class Past:
    """x_s (B, L), of the student's prediction at x_t.

    Args:
        of: says it.
        open: the positions that count at x_t, see `TrainingStep.open`, and
        left: those of them at x_s, where both are known before there is a prediction; else None.
    """

    of: Callable[[Local], Tokens]
    open: Places | None = None
    left: Places | None = None

    def __call__(self, here: Local) -> Tokens:
        return self.of(here)

    @classmethod
    def known(cls, step: TrainingStep, x_t: Tokens, x_s: Tokens) -> Past:
        """An x_s that no prediction of the student changes."""
        where = step.open(x_t)
        return cls(lambda _: x_s, *places_of(where, where & step.diffusion.undetermined(x_s)))


class Coupling(Configurable, ABC):
    """A law of pairs (x_t, x_s)."""

    @abstractmethod
    def draw(self, step: TrainingStep, s: Times, t: Times) -> tuple[Tokens, Past]:
        """x_t (B, L), and what becomes of the student's prediction there."""
