"""Whether an objective goes with the networks and settings of a run: asked once, before anything is
trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

from torch import nn
from transformers import TrainingArguments

from hf_ddistill.denoisers import Denoiser
from hf_ddistill.models import BlockDiffusionLM, unwrapped, window
from hf_ddistill.objectives import Objective, Rollouts, Trained
from hf_ddistill.objectives.needs import TAKEN

#: Settings of what an objective trains beside the student.
OF_AUXILIARIES = (
    "auxiliary_learning_rate",
    "auxiliary_beta1",
    "auxiliary_warmup_steps",
    "auxiliary_updates",
)


def check_networks(
    objective: Objective, args: TrainingArguments, trainer: str, distils: bool
) -> None:
    """Raise if an objective needs a network that cannot be had.

    Args:
        objective: says which.
        args: of the trainer.
        trainer: its name.
        distils: whether it has a teacher, and trains networks beside the student.
    """
    missing = []
    for name, need in objective.networks.items():
        if isinstance(need, Trained):
            if name in TAKEN:
                raise ValueError(
                    f"Objective {objective.id!r} trains a network {name!r} beside the student; "
                    f"give it another name than {', '.join(TAKEN)}."
                )
            missing += [] if distils else [name]
        elif need.mean:
            if not args.ema_decay:
                raise ValueError(
                    f"Objective {objective.id!r} needs the mean of weights: set ema_decay above 0."
                )
        elif not distils or name != "teacher":
            missing.append(name)
    if missing:
        raise ValueError(
            f"Objective {objective.id!r} needs {', '.join(sorted(missing))}, which {trainer} does "
            "not have."
        )
    _check_used(objective, args)


def _check_used(objective: Objective, args: TrainingArguments) -> None:
    """Raise for settings of networks beside the student where there are none."""
    if getattr(args, "rounds", 1) > 1 and "teacher" not in objective.networks:
        raise ValueError(
            f"rounds={args.rounds} makes the student its own teacher, and objective "
            f"{objective.id!r} asks none: leave it out."
        )
    if objective.auxiliaries:
        return
    given = {each.name: each.default for each in fields(args) if each.name in OF_AUXILIARIES}
    for name, default in given.items():
        if (value := getattr(args, name)) != default:
            raise ValueError(
                f"{name}={value} is of networks that are trained beside the student, and objective "
                f"{objective.id!r} trains none: leave it out."
            )


def check_run(
    objective: Objective,
    model: nn.Module,
    student: Denoiser,
    teacher: Denoiser | None,
    args: TrainingArguments,
) -> None:
    """Raise, before anything is trained, for what the first step would raise of the settings.

    Args:
        objective: as `for_student` gives it.
        model: the student, perhaps wrapped.
        student, teacher: as denoisers; no teacher is None.
        args: of the trainer.
    """
    rounds = getattr(args, "rounds", 1)
    steps = getattr(args, "student_steps", args.sample_steps)
    objective.check(student, teacher, [steps * 2**left for left in reversed(range(rounds))])
    if teacher is not None:
        teacher.at_step(student, 0.0, {})
    check_blocks(objective, model)


def check_columns(teacher: Denoiser | None, data: object) -> None:
    """Raise if the data, or one of several, lack a column that the teacher cannot be called
    without."""
    for part in data.values() if isinstance(data, Mapping) else (data,):
        columns = getattr(part, "column_names", None)  # a stream may not know them
        missing = () if None in (teacher, columns) else teacher.conditions.difference(columns)
        if missing:
            raise ValueError(
                f"The teacher, {teacher.description}, needs a column {', '.join(sorted(missing))}, "
                f"and the data have {', '.join(columns)}."
            )


def check_blocks(objective: Objective, model: nn.Module) -> None:
    """Raise for blocks and rollouts that are longer than what the model reads, or of parts that do
    not make up its blocks.

    Args:
        objective: with `rollouts` and `block_size`.
        model: the student, perhaps wrapped.
    """
    inner, most = unwrapped(model), window(model)
    if most and objective.block_size and objective.block_size > most:
        raise ValueError(
            f"block_size={objective.block_size} of objective {objective.id!r} is more than the "
            f"{most} tokens that the model reads."
        )
    rollouts: Rollouts | None = objective.rollouts
    if rollouts is None or not isinstance(inner, BlockDiffusionLM):
        return
    if most and rollouts.tokens >= most:
        raise ValueError(
            f"rollouts.tokens={rollouts.tokens} leaves no room for a prompt in the {most} tokens "
            "that the model reads."
        )
    size, part = inner.config.block_size, rollouts.block_size
    if part and not inner.is_full(size) and size % part:
        raise ValueError(f"rollouts.block_size={part} must divide the block of {size} tokens.")
