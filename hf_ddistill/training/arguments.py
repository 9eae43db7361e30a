"""Settings of the trainers, on top of `TrainingArguments`."""

from __future__ import annotations

from dataclasses import dataclass, field

from transformers import TrainingArguments
from transformers.trainer_utils import HubStrategy


@dataclass
class DiscreteDiffusionConfig(TrainingArguments):
    """Settings for training a diffusion model (a teacher) by an objective without peers.

    Args:
        ema_decay (`float`): of the running mean of the weights, which is what is evaluated and
            saved; 0 turns it off.
        max_length (`int`, *optional*): tokens in each row when text is tokenised and packed; the
            model's `max_position_embeddings` if not given.
        sample_steps (`int`): network calls per sample, for the samples drawn at each evaluation.
        num_eval_samples (`int`): how many are drawn; 0 turns them off.
    """

    remove_unused_columns: bool = field(default=False)
    ema_decay: float = field(default=0.999, metadata={"help": "Of the weights' mean; 0 is off."})
    max_length: int | None = field(default=None, metadata={"help": "Tokens in each packed row."})
    sample_steps: int = field(default=64, metadata={"help": "Network calls per sample."})
    num_eval_samples: int = field(default=0, metadata={"help": "Samples drawn per evaluation."})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must lie in [0, 1), got {self.ema_decay}.")
        if self.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            raise ValueError(
                f"hub_strategy={self.hub_strategy.value!r} would push pickles, the optimizer's "
                "among them; use 'end' or 'every_save', which push the averaged weights."
            )
        if self.max_length is not None and self.max_length < 1:
            raise ValueError(f"max_length must be at least 1, got {self.max_length}.")
        if self.sample_steps < 1:
            raise ValueError(f"sample_steps must be at least 1, got {self.sample_steps}.")
        if self.num_eval_samples < 0:
            raise ValueError(f"num_eval_samples must be at least 0, got {self.num_eval_samples}.")


@dataclass
class DiscreteDistillationConfig(DiscreteDiffusionConfig):
    """Settings for distilling a teacher into a student of few steps.

    Args:
        student_steps (`int`): network calls per sample that the student is trained for; also the
            `sample_steps` of its evaluation.
        rounds (`int`): the training is cut into so many equal parts; after each the student
            becomes the teacher, and the student's number of steps is halved, down to
            `student_steps` in the last.
    """

    student_steps: int = field(default=4, metadata={"help": "Network calls of the student."})
    rounds: int = field(default=1, metadata={"help": "Times that the student becomes the teacher."})

    def __post_init__(self) -> None:
        if self.student_steps < 1:
            raise ValueError(f"student_steps must be at least 1, got {self.student_steps}.")
        if self.rounds < 1:
            raise ValueError(f"rounds must be at least 1, got {self.rounds}.")
        self.sample_steps = self.student_steps
        super().__post_init__()
