"""Options of `hf-ddistill distill`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, dataclass
from typing import ClassVar

from hf_ddistill.cli.options.option import option
from hf_ddistill.cli.options.shared import RandomTokensOptions, TrainingDataOptions, TrainingOptions
from hf_ddistill.cli.values import DTYPES, RATE, number, positive
from hf_ddistill.training.settings import (
    ADAPTER_RATE,
    DDIT_RATE,
    LANGUAGE_MODEL_RATE,
    DiffusionSettings,
    DistillationSettings,
)


@dataclass
class DistillOptions(
    DistillationSettings,
    DiffusionSettings,
    TrainingOptions,
    TrainingDataOptions,
    RandomTokensOptions,
):
    """distil a teacher into a student of few steps"""

    #: A student's samples take the calls that it is made for.
    without: ClassVar[tuple[str, ...]] = ("sample_steps",)

    teacher: Sequence[str] = option("folder or Hub id; of several, their mean", MISSING, many=True)
    student: str | None = option("folder or Hub id (default: a copy of the teacher)")
    output: str = option("folder of the student", MISSING)
    objective: str = option(
        "an id (hf-ddistill list), or JSON; with its settings as flags",
        "law_matching",
        family="objective",
    )
    tokenizer: str | None = option("folder or id, for text (default: the teacher's, if it has one)")
    lora_rank: int | None = option("train adapters (default: all weights)", kind=positive)
    teacher_dtype: str | None = option(
        "of a teacher beside --student; auto: as it was saved (default: that of --dtype)",
        choices=("auto", *DTYPES),
    )
    combine: str = option(
        "what several teachers make; proxy: of three, base tuned untuned, the base moved as tuning "
        "moved the small one",
        "mean",
        choices=("mean", "proxy"),
    )
    guidance: float | None = option(
        "of the teacher, by its classes; its student needs one call for two (default: none)",
        kind=number(0),
    )
    anchor: float | None = option(
        "share of the first teacher in those of later --rounds (default: none)",
        kind=number(0, 1),
    )
    moving_from: float | None = option(
        "share of the teacher, and else of the student, in the target at the start; 1 at the end "
        "(default: 1 throughout)",
        kind=number(0, 1),
    )
    learning_rate: float | None = option(
        f"at its highest (default: {DDIT_RATE:g} of a DDiT, {LANGUAGE_MODEL_RATE:g} of a language "
        f"model of transformers, {ADAPTER_RATE:g} of adapters)",
        kind=RATE,
    )

    def check(self) -> None:
        """Raise for settings that go against each other."""
        self.check_resume()
        self.check_data(eval_steps=self.eval_steps, num_eval_samples=self.num_eval_samples)
        self.check_diffusion()
        self.check_distillation(self.steps)
        self.check_teachers()
        has_own_base = self.lora_rank is not None and len(self.teacher) > 1
        if self.teacher_dtype is not None and self.student is None and not has_own_base:
            raise ValueError(
                "--teacher-dtype is of a teacher beside --student; without one the student is made "
                "of the teacher, whose weights have --dtype."
            )

    @property
    def makes_teacher(self) -> bool:
        """Whether the teacher is to be more than a model, or the mean of several."""
        return any(each is not None for each in (self.guidance, self.anchor, self.moving_from))

    def check_teachers(self) -> None:
        """Raise for what cannot be made of the teachers."""
        if self.combine == "proxy" and len(self.teacher) != 3:
            raise ValueError(
                "--combine proxy is of three teachers, --teacher BASE TUNED UNTUNED; got "
                f"{len(self.teacher)}."
            )
        if self.anchor is not None and self.rounds == 1:
            raise ValueError("--anchor is of the teachers of later rounds; give --rounds.")
        alone = len(self.teacher) == 1 and self.student is None
        if self.makes_teacher and alone and self.lora_rank is not None:
            raise ValueError(
                "--guidance, --anchor and --moving-from are of a teacher beside the student; with "
                "--lora-rank give --student."
            )
