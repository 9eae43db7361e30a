"""How (x_t, x_s) with s < t are drawn from clean data.

A coupling gives x_t at once, and x_s when it is told what the student predicts at x_t, so that a
step drawn from the student costs no second network call.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import torch

from hf_ddistill import reverse
from hf_ddistill.configurable import Configurable
from hf_ddistill.couplings.training_step import Local, TrainingStep
from hf_ddistill.parameterizations import Prediction
from hf_ddistill.shapes import Times, Tokens

Past: TypeAlias = Callable[[Local], Tokens]

STEP_LAWS = {
    "ancestral": reverse.ancestral,
    "analytic": reverse.analytic,
    "euler": reverse.euler,
    "jump": reverse.jump,
    "tau_leaping": reverse.tau_leaping,
}


class Coupling(Configurable, ABC):
    """A law of pairs (x_t, x_s)."""

    @abstractmethod
    def draw(self, step: TrainingStep, s: Times, t: Times) -> tuple[Tokens, Past]:
        """x_t (B, L), and a function from the student's prediction at x_t to x_s (B, L)."""


def step_back(step: TrainingStep, x_t: Tokens, here: Local, s: Times, law: str) -> Tokens:
    """x_s drawn from a prediction at x_t, at the positions that it covers; others stay."""
    rows = here.rows
    held = Prediction(here.prediction.log_conditional.detach())
    local = x_t[here.where][:, None]
    probs = STEP_LAWS[law](held, step.diffusion, local, s[rows], here.t[rows])
    return here.place(step.draw(probs, here.where), x_t)


@dataclass(frozen=True)
class ForwardPair(Coupling):
    """x_s ~ P_0s[x_0] and x_t ~ P_st[x_s]: the true joint law, so E[p(x_0|x_s) | x_t] =
    p(x_0|x_t)."""

    id: ClassVar[str] = "forward"
    citation: ClassVar[str] = (
        "Gao, Sun, Exact Conditional Distribution Matching, 2025, arXiv:2512.12889"
    )

    def draw(self, step: TrainingStep, s: Times, t: Times) -> tuple[Tokens, Past]:
        x_s = step.noised(s)
        return step.given(step.diffusion.renoise(x_s, s, t, step.generator)), lambda _: x_s


@dataclass(frozen=True)
class StudentStep(Coupling):
    """x_t ~ P_0t[x_0] and x_s by one step of the student itself (ECD, Eq. 11 with `law="euler"`).

    Args:
        law: of the step: euler, ancestral (exact for a product posterior), analytic, tau_leaping.
    """

    law: str = "euler"
    id: ClassVar[str] = "student"
    citation: ClassVar[str] = (
        "Gao, Sun, Exact Conditional Distribution Matching, 2025, arXiv:2512.12889"
    )

    def __post_init__(self) -> None:
        _check_law(self.law)

    def draw(self, step: TrainingStep, s: Times, t: Times) -> tuple[Tokens, Past]:
        x_t = step.noised(t)
        return x_t, lambda here: step_back(step, x_t, here, s, self.law)


@dataclass(frozen=True)
class TeacherSteps(Coupling):
    """x_t ~ P_0t[x_0] and x_s by `substeps` equal steps of the teacher, one network call each.

    Args:
        substeps: at least 1.
        law: of each step.
    """

    substeps: int = 1
    law: str = "ancestral"
    id: ClassVar[str] = "teacher"
    citation: ClassVar[str] = (
        "Deschenaux, Gulcehre, Self-Distillation Through Time, 2024, arXiv:2410.21035"
    )

    def __post_init__(self) -> None:
        _check_law(self.law)
        if self.substeps < 1:
            raise ValueError(f"substeps must be at least 1, got {self.substeps}.")

    def draw(self, step: TrainingStep, s: Times, t: Times) -> tuple[Tokens, Past]:
        x_t = step.noised(t)
        x, now = x_t, t
        for i in range(1, self.substeps + 1):
            then = t + (s - t) * i / self.substeps
            with torch.no_grad():
                here = step.look(step.peers["teacher"], x, now)
            x, now = step_back(step, x, here, then, self.law), then
        return x_t, lambda _: x


def _check_law(law: str) -> None:
    if law not in STEP_LAWS:
        raise ValueError(f"Unknown step law {law!r}; there are: {', '.join(STEP_LAWS)}.")
