"""Rounds of distillation: the student becomes the teacher."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_ddistill.models import unwrapped


def same_weights(model: nn.Module, teacher: object) -> bool:
    """Whether the teacher is a model that could take on the other's weights."""
    if not isinstance(teacher, nn.Module):
        return False
    of_model, of_teacher = (unwrapped(network).state_dict() for network in (model, teacher))
    shapes = {name: weight.shape for name, weight in of_model.items()}
    return shapes == {name: weight.shape for name, weight in of_teacher.items()}


def check_rounds(model: nn.Module, teacher: object, changes: bool) -> None:
    """Raise if the teacher cannot take on the student's weights.

    Args:
        model: the student.
        teacher: a model, or what is none.
        changes: whether the student is an adapter, or is made anew.
    """
    if changes or not same_weights(model, teacher):
        raise ValueError(
            "With rounds > 1 the teacher takes on the student's weights, so it must be a model of "
            "its own (no denoiser) with the same architecture, and the student no adapter, nor one "
            "with a noise input that the teacher lacks, nor one that model_init= makes anew."
        )


class Rounds(TrainerCallback):
    """Refreshes the teacher when a round ends, before a checkpoint of that step is written.

    What is trained beside the student as a copy of the teacher starts anew as one. On exact patches
    of digits under masks (law matching, four calls and then two, 1,000 student calls of 256 rows
    each) that ends at a total variation of .1318, and .1545 where the auxiliary goes on; under
    uniform noise at .6669 and .6668. The same second part against the first teacher ends at .0548:
    rounds are for objectives that match conditionals; a student that matches laws is no denoiser of
    its own samples, and a bad teacher.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        """Raise if there is not a step for each round (`max_steps` was looked at before)."""
        if state.max_steps < args.rounds:
            raise ValueError(
                f"rounds={args.rounds} needs a step for each round at least, and the epochs come "
                f"to {state.max_steps}."
            )

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
            self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """The student's (averaged) weights become the teacher's."""
        trainer = self.trainer
        student = unwrapped(trainer.model)
        with trainer.averaged_weights():
            unwrapped(trainer.renewed).load_state_dict(student.state_dict())
            for name, model in trainer.auxiliaries.models.items():
                if trainer.objective.networks[name].copy_of == "teacher":
                    model.load_state_dict(student.state_dict())
        # What the objective remembers is of the old teacher, and of another number of steps.
        trainer.memory.clear()
