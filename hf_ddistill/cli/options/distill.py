"""Options of `hf-ddistill distill`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, dataclass
from typing import ClassVar

from hf_ddistill.cli.options.option import option
from hf_ddistill.cli.options.shared import RandomTokensOptions, TrainingDataOptions, TrainingOptions
from hf_ddistill.cli.values import DTYPES, RATE, positive
from hf_ddistill.training.settings import DiffusionSettings, DistillationSettings


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
    learning_rate: float = option("at its highest", 3e-4, kind=RATE)

    def check(self) -> None:
        """Raise for settings that go against each other."""
        self.check_resume()
        self.check_data(eval_steps=self.eval_steps, num_eval_samples=self.num_eval_samples)
        self.check_diffusion()
        self.check_distillation(self.steps)
        has_own_base = self.lora_rank is not None and len(self.teacher) > 1
        if self.teacher_dtype is not None and self.student is None and not has_own_base:
            raise ValueError(
                "--teacher-dtype is of a teacher beside --student; without one the student is made "
                "of the teacher, whose weights have --dtype."
            )
