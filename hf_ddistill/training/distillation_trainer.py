"""The trainer with a teacher."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import (
    AutoModelForMaskedLM,
    PreTrainedModel,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from hf_ddistill.diffusion import Diffusion
from hf_ddistill.models import as_denoiser, unwrapped
from hf_ddistill.objectives import Objective
from hf_ddistill.parameterizations import Denoiser
from hf_ddistill.training.arguments import DiscreteDistillationConfig
from hf_ddistill.training.diffusion_trainer import DiscreteDiffusionTrainer
from hf_ddistill.training.model_card import CardFacts, is_repo_id

if TYPE_CHECKING:
    from peft import PeftConfig


class DiscreteDistillationTrainer(DiscreteDiffusionTrainer):
    """Distils a teacher into a student of few steps.

    Args:
        model (`PreTrainedModel` or `str`): the student; None for a copy of the teacher.
        teacher (`PreTrainedModel`, `Denoiser` or `str`, *optional*): frozen. Not given with
            `peft_config`: the student's own base, adapters off, is then the teacher.
        objective (`str`, `dict` or `Objective`): an id (`hf-ddistill list`), a configuration, or
            the object.
        args (`DiscreteDistillationConfig`): settings.
        peft_config (*optional*): makes the student a PEFT model.
        **kwargs: as of `DiscreteDiffusionTrainer`.

    Raises:
        ValueError: if teacher and student differ in vocabulary or process, or there is no teacher.
    """

    args: DiscreteDistillationConfig
    available_peers: ClassVar[tuple[str, ...]] = ("teacher", "ema")

    def __init__(
        self,
        model: PreTrainedModel | nn.Module | str | None = None,
        teacher: PreTrainedModel | Denoiser | str | None = None,
        objective: str | Mapping[str, Any] | Objective = "ecd",
        args: DiscreteDistillationConfig | None = None,
        *,
        peft_config: PeftConfig | None = None,
        **kwargs: Any,
    ) -> None:
        args = DiscreteDistillationConfig("trainer_output") if args is None else args
        teacher = (
            AutoModelForMaskedLM.from_pretrained(teacher) if isinstance(teacher, str) else teacher
        )
        model = AutoModelForMaskedLM.from_pretrained(model) if isinstance(model, str) else model
        if model is None:
            if not isinstance(teacher, nn.Module):
                raise ValueError("Without a model, the teacher must be a model that can be copied.")
            # The teacher may be frozen already.
            model = copy.deepcopy(teacher).requires_grad_(True)
        if model is teacher:
            raise ValueError(
                "Student and teacher are one object, which cannot be trained and frozen at once; "
                "leave out model= to train a copy of the teacher."
            )
        if peft_config is not None:
            model = get_peft_model(model, peft_config)
        adapted = isinstance(model, PeftModel)
        self.own_base = teacher is None and adapted
        if teacher is None and not self.own_base:
            raise ValueError(
                "Distillation needs a teacher: pass teacher=, or peft_config= to use the base."
            )
        if args.rounds > 1 and (adapted or not _same_weights(model, teacher)):
            raise ValueError(
                "With rounds > 1 the teacher takes on the student's weights, so it must be a model "
                "of its own with the same architecture, and the student no adapter."
            )
        self.teacher_model = (
            teacher.eval().requires_grad_(False) if isinstance(teacher, nn.Module) else None
        )
        given = kwargs.pop("diffusion", None)
        if self.own_base:
            self.teacher = as_denoiser(model, given, adapters=False)
        else:
            given_model = isinstance(teacher, nn.Module)
            self.teacher = as_denoiser(teacher, given) if given_model else teacher
        kwargs["diffusion"] = self._agreed(model, given)
        super().__init__(model, args, objective, **kwargs)
        unwrapped(self.model).config.discrete_diffusion["num_inference_steps"] = args.student_steps
        if self.teacher_model is not None:
            prepared = self.accelerator.prepare_model(self.teacher_model, evaluation_mode=True)
            self.teacher = replace(
                self.teacher, network=replace(self.teacher.network, model=prepared)
            )
        if args.rounds > 1:
            self.add_callback(_Rounds(self))

    def _agreed(self, model: nn.Module, given: Diffusion | None) -> Diffusion:
        """The diffusion of both; a student that says nothing takes on the teacher's."""
        entry = getattr(unwrapped(model).config, "discrete_diffusion", None)
        student = given or (Diffusion.from_config(entry) if entry else self.teacher.diffusion)
        if student.vocab_size != self.teacher.diffusion.vocab_size:
            raise ValueError(
                f"The student has vocab_size={student.vocab_size} and the teacher "
                f"{self.teacher.diffusion.vocab_size}: they must share one vocabulary."
            )
        if student != self.teacher.diffusion:
            raise ValueError(
                f"The student was set up for {student.to_config()} and the teacher for "
                f"{self.teacher.diffusion.to_config()}: they must share one process and schedule."
            )
        return student

    def peers(self) -> dict[str, Denoiser]:
        """The teacher, and the mean of the student where it is asked for."""
        return {**super().peers(), "teacher": self.teacher}

    def round_at(self, step: int) -> int:
        """The round, from 0, that an optimizer step is in."""
        total = max(self.state.max_steps, 1)
        return min(self.args.rounds * step // total, self.args.rounds - 1)

    @property
    def student_steps(self) -> int:
        """`args.student_steps` in the last round, twice as many in each one before."""
        if not self.state.max_steps:
            return self.args.student_steps
        rounds_left = self.args.rounds - 1 - self.round_at(self.state.global_step)
        return self.args.student_steps * 2**rounds_left

    @torch.no_grad()
    def refresh_teacher(self) -> None:
        """The student's (averaged) weights become the teacher's."""
        student = unwrapped(self.model)
        with self.averaged_weights():
            unwrapped(self.teacher_model).load_state_dict(student.state_dict())
        # What the objective remembers is of the old teacher, and of another number of steps.
        self.memory = {}

    def _kept(self) -> dict[str, Tensor]:
        tensors = super()._kept()
        if self.args.rounds > 1:
            # Shared (tied) tensors are written once each.
            weights = unwrapped(self.teacher_model).state_dict()
            tensors |= {f"teacher.{key}": value.clone() for key, value in weights.items()}
        return tensors

    def _restore(self, tensors: dict[str, Tensor]) -> None:
        super()._restore(tensors)
        weights = {k[8:]: v for k, v in tensors.items() if k.startswith("teacher.")}
        if weights:
            unwrapped(self.teacher_model).load_state_dict(weights)

    def facts(self) -> CardFacts:
        """What the card tells of this run, its teacher included."""
        source = self.model if self.own_base else self.teacher_model
        name = unwrapped(source).config.name_or_path if source is not None else ""
        # The path of a folder says nothing to others.
        name = name if is_repo_id(name) else Path(name).name
        teacher = name or "a teacher in memory"
        return replace(super().facts(), teacher=teacher, steps=self.args.student_steps)


def _same_weights(model: nn.Module, teacher: object) -> bool:
    if not isinstance(teacher, nn.Module):
        return False
    of_model, of_teacher = (unwrapped(network).state_dict() for network in (model, teacher))
    shapes = {name: weight.shape for name, weight in of_model.items()}
    return shapes == {name: weight.shape for name, weight in of_teacher.items()}


class _Rounds(TrainerCallback):
    """Refreshes the teacher when a round ends, before a checkpoint of that step is written."""

    def __init__(self, trainer: DiscreteDistillationTrainer) -> None:
        self.trainer = trainer

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        """Refresh if this step was the last of its round, and not the last of all."""
        trainer = self.trainer
        if trainer.round_at(state.global_step) > trainer.round_at(state.global_step - 1):
            trainer.refresh_teacher()
