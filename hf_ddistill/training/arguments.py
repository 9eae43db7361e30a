"""Settings of the trainers, on top of `TrainingArguments`."""

from __future__ import annotations

from dataclasses import dataclass, field

from transformers import TrainingArguments
from transformers.trainer_utils import HubStrategy


@dataclass
class DiscreteDiffusionConfig(TrainingArguments):
    """Settings for training a diffusion model (a teacher) by an objective without a teacher.

    Args:
        ema_decay (`float`): of the running mean of the weights, which is what is evaluated and
            saved; 0 turns it off.
        max_length (`int`, *optional*): tokens in each row when text is tokenised and packed; the
            model's `max_position_embeddings` if not given.
        prompt_length (`int`, *optional*): the first tokens of each row are given, not noised and
            not trained on; the prompts of rollouts are all of a row if not given.
        assistant_only_loss (`bool`): of conversations (`messages`) only what the assistant says is
            trained on; False for all of them.
        sample_steps (`int`): network calls per sample, for the samples drawn at each evaluation.
        num_eval_samples (`int`): how many are drawn; 0 turns them off.
    """

    remove_unused_columns: bool = field(default=False)
    # The processes need not call a network equally often, and a broadcast would wait for all.
    ddp_broadcast_buffers: bool | None = field(default=False)
    ema_decay: float = field(default=0.999, metadata={"help": "Of the weights' mean; 0 is off."})
    max_length: int | None = field(default=None, metadata={"help": "Tokens in each packed row."})
    prompt_length: int | None = field(default=None, metadata={"help": "Tokens that are given."})
    assistant_only_loss: bool = field(default=True, metadata={"help": "Of conversations."})
    sample_steps: int = field(default=64, metadata={"help": "Network calls per sample."})
    num_eval_samples: int = field(default=0, metadata={"help": "Samples drawn per evaluation."})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.accelerator_config.dispatch_batches is None:
            # Each process reads a stream by itself: batches that one process hands to all are put
            # together first, which rows of unequal lengths cannot be.
            self.accelerator_config.dispatch_batches = False
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must lie in [0, 1), got {self.ema_decay}.")
        if self.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            raise ValueError(
                f"hub_strategy={self.hub_strategy.value!r} would push pickles, the optimizer's "
                "among them; use 'end' or 'every_save', which push the averaged weights."
            )
        if self.max_length is not None and self.max_length < 1:
            raise ValueError(f"max_length must be at least 1, got {self.max_length}.")
        if self.prompt_length is not None and self.prompt_length < 0:
            raise ValueError(f"prompt_length must be at least 0, got {self.prompt_length}.")
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
        noise_dim (`int`): above 0, and without a model, the student is a copy of the teacher with
            a noise input of this width; it must be the width of a model that is given.
        noise_std (`float`): standard deviation of what that input adds to each channel at first.
        auxiliary_learning_rate (`float`, *optional*): of all networks that the objective trains
            beside the student (an auxiliary denoiser, a discriminator), as the next three are; the
            student's if not given. It follows the student's schedule.
        auxiliary_beta1 (`float`): of theirs in an optimizer with betas; small, because what they
            learn, the law of the student, moves.
        auxiliary_warmup_steps (`int`): optimizer steps at the start that update them alone.
        auxiliary_updates (`int`): of so many optimizer steps the last one updates the student too.
        collapse_share (`float`): a student is warned of in the step in which the entropy of its
            samples falls below this share of the teacher's, or that of the tokens which it draws
            below this share of what it was; 0 turns it off.
    """

    student_steps: int = field(default=4, metadata={"help": "Network calls of the student."})
    rounds: int = field(default=1, metadata={"help": "Times that the student becomes the teacher."})
    noise_dim: int = field(default=0, metadata={"help": "Width of the student's noise input."})
    noise_std: float = field(default=0.3, metadata={"help": "Of what the noise input adds."})
    auxiliary_learning_rate: float | None = field(default=None, metadata={"help": "Its own."})
    auxiliary_beta1: float = field(default=0.5, metadata={"help": "Of Adam, for the auxiliary."})
    auxiliary_warmup_steps: int = field(default=0, metadata={"help": "Steps that train it alone."})
    auxiliary_updates: int = field(default=1, metadata={"help": "For each one of the student."})
    collapse_share: float = field(default=0.5, metadata={"help": "Least share of entropy left."})

    def __post_init__(self) -> None:
        if self.student_steps < 1:
            raise ValueError(f"student_steps must be at least 1, got {self.student_steps}.")
        if self.rounds < 1:
            raise ValueError(f"rounds must be at least 1, got {self.rounds}.")
        self._check_noise_and_auxiliary()
        self.sample_steps = self.student_steps
        super().__post_init__()

    def _check_noise_and_auxiliary(self) -> None:
        for name in ("noise_dim", "auxiliary_warmup_steps"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}.")
        for name in ("auxiliary_beta1", "collapse_share"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {getattr(self, name)}.")
        if self.noise_std <= 0:
            raise ValueError(f"noise_std must be above 0, got {self.noise_std}.")
        if self.auxiliary_learning_rate is not None and self.auxiliary_learning_rate <= 0:
            raise ValueError(
                f"auxiliary_learning_rate must be above 0, got {self.auxiliary_learning_rate}."
            )
        if self.auxiliary_updates < 1:
            raise ValueError(f"auxiliary_updates must be at least 1, got {self.auxiliary_updates}.")
        first = self.auxiliary_warmup_steps + self.auxiliary_updates
        if 0 < self.max_steps < first:
            raise ValueError(
                f"The student would never be updated: its first update is optimizer step {first}, "
                f"and max_steps is {self.max_steps}."
            )
