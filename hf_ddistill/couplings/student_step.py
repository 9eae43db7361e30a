"""Pairs by a step of the student itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from hf_ddistill.couplings.coupling import Coupling, Past
from hf_ddistill.couplings.step_back import chances_of, step_back
from hf_ddistill.couplings.training_step import Local, TrainingStep
from hf_ddistill.linalg import categorical_of_logs, uniform_noise
from hf_ddistill.places import places_of
from hf_ddistill.samplers import Euler, Sampler
from hf_ddistill.samplers.chances import Chances
from hf_ddistill.shapes import Times, Tokens


@dataclass(frozen=True)
class StudentStep(Coupling):
    """x_t ~ P_0t[x_0] and x_s by one step of the student itself (ECD, Eq. 11 with Euler's).

    Args:
        sampler: of the step: "euler", "ancestral" (exact for a product posterior), or any other
            with a rule. Where nothing is masked a long step of Euler's is far from the process, and
            what the student is aimed at behind it too (docs/results/ecd.md): "ancestral" there.

    Raises:
        ValueError: for a sampler without a rule.
    """

    sampler: Sampler | Mapping[str, Any] | str = Euler()
    id: ClassVar[str] = "student"
    citation: ClassVar[str] = (
        "Gao, Sun, Exact Conditional Distribution Matching, 2025, arXiv:2512.12889"
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "sampler", Sampler.from_config(self.sampler))
        if not self.sampler.is_product:
            raise ValueError(
                "A step of the student follows from the one prediction that it is trained at, by "
                f"the rule of a sampler, and {self.sampler.id!r} has none."
            )

    def draw(self, step: TrainingStep, s: Times, t: Times) -> tuple[Tokens, Past]:
        x_t = step.noised(t)
        chances = chances_of(step, self.sampler, s, t)
        if chances is not None and self.sampler.keeps_certain:
            return x_t, self._planned(step, x_t, chances)

        @torch.no_grad()
        def past(here: Local) -> Tokens:
            return step_back(step, x_t, here, s, self.sampler)[0]

        return x_t, Past(past)

    def _planned(self, step: TrainingStep, x_t: Tokens, chances: Chances) -> Past:
        """Which positions are revealed hangs on no prediction; the device is waited for once."""
        share = uniform_noise(x_t.shape, step.generator, x_t.device) / chances.reveal[:, None]
        where, shown = step.open(x_t), share < 1
        open_, shown, left = places_of(where, where & shown, where & ~shown)

        def past(here: Local) -> Tokens:
            log_p = here.log_conditional_at(shown).detach()
            return shown.put(categorical_of_logs(log_p, noise=shown.take(share)), x_t)

        return Past(past, open_, left)
