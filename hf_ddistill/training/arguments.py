"""Settings of the trainers, on top of `TrainingArguments`."""

from __future__ import annotations

from dataclasses import dataclass, field

from transformers import TrainingArguments
from transformers.trainer_utils import HubStrategy

from hf_ddistill.training.settings import (
    ADAPTER_RATE,
    DDIT_RATE,
    LANGUAGE_MODEL_RATE,
    DiffusionSettings,
    DistillationSettings,
    setting,
)


@dataclass
class DiscreteDiffusionConfig(DiffusionSettings, TrainingArguments):
    """Settings for training a diffusion model (a teacher) by an objective without peers:
    `DiffusionSettings` on top of `TrainingArguments`."""

    remove_unused_columns: bool = field(default=False)
    # A loss that is no number is refused, once in each optimizer step; the filter of transformers
    # would wait for the device in each micro step.
    logging_nan_inf_filter: bool = field(default=False)
    # The processes need not call a network equally often, and a broadcast would wait for all.
    ddp_broadcast_buffers: bool | None = field(default=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.accelerator_config.dispatch_batches is None:
            # Each process reads a stream by itself: batches that one process hands to all are put
            # together first, which rows of unequal lengths cannot be.
            self.accelerator_config.dispatch_batches = False
        if self.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            raise ValueError(
                f"hub_strategy={self.hub_strategy.value!r} would push pickles, the optimizer's "
                "among them; use 'end' or 'every_save', which push the averaged weights."
            )
        self.check_diffusion()


@dataclass
class DiscreteDistillationConfig(DistillationSettings, DiscreteDiffusionConfig):
    """Settings for distilling a teacher into a student of few steps: `DistillationSettings` on top
    of those of `DiscreteDiffusionConfig`. A `learning_rate` that is not given is that of the kind
    of student (`training.rates`); under DeepSpeed, whose settings are made before there is a
    student, that of a language model."""

    learning_rate: float | None = setting(
        None,
        f"at its highest (default: {DDIT_RATE:g} of a DDiT, {LANGUAGE_MODEL_RATE:g} of a language "
        f"model of transformers, {ADAPTER_RATE:g} of adapters)",
    )

    def __post_init__(self) -> None:
        self.check_distillation(self.max_steps)
        self.sample_steps = self.student_steps
        given = self.learning_rate
        self.learning_rate = LANGUAGE_MODEL_RATE if given is None else given
        super().__post_init__()
        if getattr(self, "hf_deepspeed_config", None) is None:
            self.learning_rate = given
