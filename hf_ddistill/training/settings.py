"""The trainers' own settings, with their bounds, on top of which stand `TrainingArguments`.

This module imports no torch: the command line takes its flags from these very classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

#: Network calls for one sample: more of them cannot be meant.
MOST_CALLS = 100_000
AUXILIARY = ("auxiliary", "the networks that some objectives train beside the student")


def setting(default: Any, about: str, **more: Any) -> Any:
    """A field with its help.

    Args:
        default: its value where nobody gives one.
        about: what it is, in a few words.
        more: bounds: `least`, `most` (inclusive), `above`, `below` (exclusive); and `group`, the
            title of its group in a help, with what that is about.
    """
    return field(default=default, metadata={"help": about, **more})


def check_bounds(settings: Any) -> None:
    """Raise for the first value of a dataclass that is beyond the bounds of its field."""
    for each in fields(settings):
        value, bounds = getattr(settings, each.name), each.metadata
        if value is None or isinstance(value, str):
            continue
        if "least" in bounds and "below" in bounds:
            if not bounds["least"] <= value < bounds["below"]:
                meant = f"lie in [{bounds['least']}, {bounds['below']})"
                raise ValueError(f"{each.name} must {meant}, got {value}.")
        elif "least" in bounds and not value >= bounds["least"]:
            raise ValueError(f"{each.name} must be at least {bounds['least']}, got {value}.")
        elif "above" in bounds and not value > bounds["above"]:
            raise ValueError(f"{each.name} must be above {bounds['above']}, got {value}.")
        if "most" in bounds and value > bounds["most"]:
            raise ValueError(f"{each.name} must be at most {bounds['most']:,}, got {value:,}.")


@dataclass
class DiffusionSettings:
    """Settings of any training of a diffusion model.

    Args:
        ema_decay: of the running mean of the weights, which is what is evaluated and saved; 0 turns
            it off.
        max_length: tokens in each row when text is tokenised and packed; the model's
            `max_position_embeddings` if not given.
        prompt_length: the first tokens of each row are given, not noised and not trained on; the
            prompts of rollouts are all of a row if not given.
        assistant_only_loss: of conversations (`messages`) only what the assistant says is trained
            on; False for all of them.
        sample_steps: network calls per sample, for the samples drawn at each evaluation.
        num_eval_samples: how many are drawn; 0 turns them off.
    """

    ema_decay: float = setting(0.999, "of the weights' mean; 0 is off", least=0, below=1)
    max_length: int | None = setting(
        None, "tokens in a row of text (default: the model's window)", least=1
    )
    prompt_length: int | None = setting(
        None,
        "tokens of a row that are given; of rollouts, the prompt (default: none; of rollouts all)",
        least=0,
    )
    assistant_only_loss: bool = setting(True, "of conversations")
    sample_steps: int = setting(64, "network calls per sample", least=1, most=MOST_CALLS)
    num_eval_samples: int = setting(0, "samples drawn per evaluation", least=0)

    def check(self) -> None:
        """Raise for a value out of bounds, or one that would not be acted on."""
        check_bounds(self)
        if self.prompt_length and self.max_length and self.prompt_length >= self.max_length:
            raise ValueError(
                f"prompt_length={self.prompt_length} leaves nothing to train on of rows of "
                f"max_length={self.max_length}."
            )


@dataclass
class DistillationSettings:
    """Settings of distilling a teacher into a student of few steps, beside those of any training.

    Args:
        student_steps: network calls per sample that the student is trained for; also the
            `sample_steps` of its evaluation.
        rounds: the training is cut into so many equal parts; after each the student becomes the
            teacher, and the student's number of steps is halved, down to `student_steps` in the
            last.
        noise_dim: above 0, and without a model, the student is a copy of the teacher with a noise
            input of this width; it must be the width of a model that is given.
        noise_std: standard deviation of what that input adds to each channel at first.
        auxiliary_learning_rate: of all networks that the objective trains beside the student (an
            auxiliary denoiser, a discriminator), as the next three are; the student's if not given.
            It follows the student's schedule.
        auxiliary_beta1: of theirs in an optimizer with betas; small, because what they learn, the
            law of the student, moves.
        auxiliary_warmup_steps: optimizer steps at the start that update them alone.
        auxiliary_updates: of so many optimizer steps the last one updates the student too.
        collapse_share: a student is warned of in the step in which the entropy of its samples falls
            below this share of the teacher's, or that of the tokens which it draws below this share
            of what it was; 0 turns it off.
    """

    student_steps: int = setting(4, "network calls of the student", least=1, most=MOST_CALLS)
    # Each doubles the steps of the first.
    rounds: int = setting(1, "times that the student becomes the teacher", least=1, most=16)
    noise_dim: int = setting(0, "width of the student's noise input", least=0)
    noise_std: float = setting(0.3, "of what the noise input adds", above=0)
    auxiliary_learning_rate: float | None = setting(
        None, "of the auxiliary (default: the student's)", above=0, group=AUXILIARY
    )
    auxiliary_beta1: float = setting(
        0.5, "of Adam, for the auxiliary", least=0, below=1, group=AUXILIARY
    )
    auxiliary_warmup_steps: int = setting(0, "steps that train it alone", least=0, group=AUXILIARY)
    auxiliary_updates: int = setting(1, "for each one of the student", least=1, group=AUXILIARY)
    collapse_share: float = setting(0.5, "least share of entropy left", least=0, below=1)

    def check_distillation(self, max_steps: int) -> None:
        """The same as `check`, of these settings, for a training of so many steps (-1: unknown)."""
        check_bounds(self)
        default = next(each.default for each in fields(self) if each.name == "noise_std")
        if self.noise_dim == 0 and self.noise_std != default:
            raise ValueError(
                f"noise_std={self.noise_std} is of a noise input, and noise_dim is 0: give its "
                "width, or leave noise_std out."
            )
        first = self.auxiliary_warmup_steps + self.auxiliary_updates
        if 0 < max_steps < first:
            raise ValueError(
                f"The student would never be updated: its first update is optimizer step {first}, "
                f"and max_steps is {max_steps}."
            )
