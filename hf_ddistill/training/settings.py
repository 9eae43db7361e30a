"""The trainers' own settings, with their bounds, on top of which stand `TrainingArguments`.

This module imports no torch: the command line takes its flags from these very classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from hf_ddistill.kinds import check_kinds, check_sizes

#: Network calls for one sample: more of them cannot be meant.
MOST_CALLS = 100_000
#: Of a student, by what it is, where none is given.
DDIT_RATE, LANGUAGE_MODEL_RATE, ADAPTER_RATE = 3e-4, 5e-5, 2e-4
#: Of what is trained beside it, times the student's; where that is adapters over the same base.
AUXILIARY_TIMES, ADAPTED_AUXILIARY_TIMES = 2.0, 10.0


@dataclass(frozen=True)
class Bounds:
    """Where a number has to lie: from `least` to `most`, above `above` and below `below`."""

    least: float | None = None
    most: int | None = None
    above: float | None = None
    below: float | None = None

    def check(self, name: str, value: float) -> None:
        """Raise if it does not."""
        if self.least is not None and self.below is not None:
            if not self.least <= value < self.below:
                meant = f"lie in [{self.least:g}, {self.below:g})"
                raise ValueError(f"{name} must {meant}, got {value}.")
        elif self.least is not None and not value >= self.least:
            raise ValueError(f"{name} must be at least {self.least:g}, got {value}.")
        elif self.above is not None and not value > self.above:
            raise ValueError(f"{name} must be above {self.above:g}, got {value}.")
        if self.most is not None and value > self.most:
            raise ValueError(f"{name} must be at most {self.most:,}, got {value:,}.")


SHARE = Bounds(least=0, below=1)
COUNT = Bounds(least=1)
CALLS = Bounds(least=1, most=MOST_CALLS)
#: Of the settings here. (A field's metadata are arguments of argparse to `HfArgumentParser`.)
BOUNDS = {
    "ema_decay": SHARE,
    "max_length": COUNT,
    "prompt_length": Bounds(least=0),
    "sample_steps": CALLS,
    "num_eval_samples": Bounds(least=0),
    "student_steps": CALLS,
    "rounds": Bounds(least=1, most=16),  # each doubles the steps of the first
    "noise_dim": Bounds(least=0),
    "student_layers": Bounds(least=0),
    "student_bits": Bounds(least=0, most=8),
    "noise_std": Bounds(above=0),
    "auxiliary_learning_rate": Bounds(above=0),
    "auxiliary_beta1": SHARE,
    "auxiliary_warmup_steps": Bounds(least=0),
    "auxiliary_updates": COUNT,
    "auxiliary_lag": Bounds(least=0),
    "collapse_share": SHARE,
}


def setting(default: Any, about: str) -> Any:
    """A field with what it is, in a few words."""
    return field(default=default, metadata={"help": about})


def check_bounds(settings: Any) -> None:
    """Raise for the first value of a dataclass that is of another kind than these settings take, or
    beyond its bounds."""
    own = [each.name for cls in (DiffusionSettings, DistillationSettings) for each in fields(cls)]
    check_kinds(settings, own)
    for each in fields(settings):
        value = getattr(settings, each.name)
        if each.name in BOUNDS and value is not None:
            BOUNDS[each.name].check(each.name, value)
    check_sizes(settings, own)


@dataclass
class DiffusionSettings:
    """Settings of any training of a diffusion model.

    Args:
        ema_decay: of the running mean of the weights, which is what is evaluated and saved; 0 turns
            it off.
        max_length: the most tokens of a row, and those of a sample; the model's window if not
            given. Texts are cut there, longer rows of `input_ids` refused.
        prompt_length: the first tokens of each row are given, not noised and not trained on; the
            prompts of rollouts are all of a row if not given.
        assistant_only_loss: of conversations (`messages`) only what the assistant says is trained
            on; False for all of them.
        packing: whether texts stand one after another, cut into rows of `max_length`; False for
            rows of a text each, between the tokenizer's special tokens. If not given, masked
            language models of transformers, which were trained so, get such rows, all others packed
            ones.
        sample_steps: network calls per sample, for the samples drawn at each evaluation.
        num_eval_samples: how many are drawn; 0 turns them off.
    """

    ema_decay: float = setting(0.999, "of the weights' mean; 0 is off")
    max_length: int | None = setting(None, "tokens in a row of text (default: the model's window)")
    prompt_length: int | None = setting(
        None,
        "tokens of a row that are given; of rollouts, the prompt (default: none; of rollouts all)",
    )
    assistant_only_loss: bool = setting(True, "of conversations")
    packing: bool | None = setting(
        None, "texts one after another in full rows (default: not of masked LMs of transformers)"
    )
    sample_steps: int = setting(64, "network calls per sample")
    num_eval_samples: int = setting(0, "samples drawn per evaluation")

    def check_diffusion(self) -> None:
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
        rounds: the training is cut into so many equal parts (of `max_steps`, which they divide; of
            epochs as equal as they go); after each the student becomes the teacher, and the
            student's number of steps is halved, down to `student_steps` in the last.
        noise_dim: above 0, and without a model, the student is a copy of the teacher with a noise
            input of this width; it must be the width of a model that is given.
        student_layers: above 0, and without a model, the student is a copy of the teacher that
            keeps so many of its layers, evenly spaced.
        student_bits: 8 or 4, and without a model: the student is a copy of the teacher that
            computes with weights of so many bits, trained through the rounding (needs torchao).
        noise_std: standard deviation of what that input adds to each channel at first; if not given
            it is found, so that an untrained noise input tells a tenth of a token's entropy in the
            first call (`training.noise_strength`).
        auxiliary_learning_rate: of all networks that the objective trains beside the student (an
            auxiliary denoiser, a discriminator), as the next three are; twice the student's if not
            given, ten times where it is adapters over the student's base.
            It follows the student's schedule.
        auxiliary_beta1: of theirs in an optimizer with betas; small, because what they learn, the
            law of the student, moves.
        auxiliary_warmup_steps: optimizer steps at the start that update them alone.
        auxiliary_updates: of so many optimizer steps the last one updates the student too.
        auxiliary_lag: nats per token by which the auxiliary's cross entropy on what the student
            draws may be above its own entropy there (they are the same where it knows the student's
            law); while it is more, the student's learning rate is multiplied by the square of this
            over the lag; 0 turns it off.
        collapse_share: where variety or likeness to the data of the student's samples falls below
            this share of the teacher's at the same calls, the student goes on from its last good
            weights at half of its learning rate; samples that are farther from the data than
            the teacher's after the last step give way to those weights, too, unless they are
            nearer at fewer calls, which the trainer then names; 0 turns it off.
    """

    student_steps: int = setting(4, "network calls of the student")
    rounds: int = setting(1, "times that the student becomes the teacher")
    noise_dim: int = setting(0, "width of the student's noise input")
    student_layers: int = setting(0, "layers that a copy of the teacher keeps; 0 is all")
    student_bits: int = setting(0, "of the weights that a copy computes with, 8 or 4; 0 is all")
    noise_std: float | None = setting(
        None,
        "of what the noise input adds at first (default: it tells a tenth of a token's entropy)",
    )
    auxiliary_learning_rate: float | None = setting(
        None, "of the auxiliary (default: twice the student's; of adapters ten times)"
    )
    auxiliary_beta1: float = setting(0.5, "of Adam, for the auxiliary")
    auxiliary_warmup_steps: int = setting(0, "steps that train it alone")
    auxiliary_updates: int = setting(1, "for each one of the student")
    auxiliary_lag: float = setting(0.1, "nats; beyond, the student is slowed down; 0 is off")
    collapse_share: float = setting(
        0.5, "of the teacher's variety and likeness; below, the student is set back; 0 is off"
    )

    def check_distillation(self, max_steps: int) -> None:
        """The same of these settings, for a training of so many steps (-1 if nobody knows)."""
        check_bounds(self)
        if self.noise_dim == 0 and self.noise_std is not None:
            raise ValueError(
                f"noise_std={self.noise_std} is of a noise input, and noise_dim is 0: give its "
                "width, or leave noise_std out."
            )
        if max_steps > 0 and (left := max_steps % self.rounds):
            near = [max_steps - left, max_steps - left + self.rounds]
            said = " or ".join(str(each) for each in near if each)
            raise ValueError(
                f"rounds={self.rounds} cuts a training into equal parts, and max_steps={max_steps} "
                f"is no multiple of it: take {said} steps."
            )
        first = self.auxiliary_warmup_steps + self.auxiliary_updates
        if 0 < max_steps < first:
            raise ValueError(
                f"The student would never be updated: its first update is optimizer step {first}, "
                f"and max_steps is {max_steps}."
            )
