"""What `hf-ddistill distill` is about to do, and why: said before the first step."""

from __future__ import annotations

import json

from hf_ddistill.cli.options.distill import DistillOptions
from hf_ddistill.models import BlockDiffusionLM, unwrapped
from hf_ddistill.training import DiscreteDistillationTrainer


def recipe(trainer: DiscreteDistillationTrainer, options: DistillOptions) -> str:
    """The recipe, a line for each choice, with what it follows from."""
    lines = {
        "objective": _objective(trainer, options),
        "teacher": _teacher(trainer, options),
        "student": _student(trainer, options),
        "samples": _samples(trainer),
        "training": _training(trainer, options),
    }
    for name in trainer.objective.auxiliaries:
        source = trainer.objective.networks[name].copy_of
        made = "a network of its own" if source is None else f"a second copy of the {source}"
        if source is not None and trainer.own_base:
            made = f"adapters of its own over the same weights, at first the {source}"
        lines[name] = f"{made}, trained beside the student ({trainer.objective.id} needs it)"
    return "\n".join(f"{name:>9}: {what}" for name, what in lines.items())


def _objective(trainer: DiscreteDistillationTrainer, options: DistillOptions) -> str:
    objective = trainer.objective
    own = {key: value for key, value in objective.to_config().items() if key != "type"}
    settings = ", ".join(f"{key} {json.dumps(value)}" for key, value in own.items())
    return f"{objective.id} (--objective): {settings or 'no settings'}"


def _teacher(trainer: DiscreteDistillationTrainer, options: DistillOptions) -> str:
    names = " and ".join(options.teacher)
    if trainer.own_base:
        return f"{names}, with the adapters off (--lora-rank without --student: one copy in memory)"
    if options.combine == "proxy":
        base, tuned, untuned = options.teacher
        names = f"{base}, moved as {tuned} from {untuned}"
    elif len(options.teacher) > 1:
        names = f"the mean of {names}"
    if options.guidance is not None:
        names += f", guided by {options.guidance:g}"
    if options.anchor is not None:
        names += f", {options.anchor:.0%} of it in later rounds, else the last student"
    if options.moving_from is not None:
        names += f", at first {options.moving_from:.0%} of it, else the student"
    if trainer.teacher_model is None:
        return f"{names}, frozen"
    return f"{names}, frozen, in {_dtype(trainer.teacher_model)}"


def _student(trainer: DiscreteDistillationTrainer, options: DistillOptions) -> str:
    model = trainer.model
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    source = options.student or options.teacher[0]
    if options.lora_rank:
        what = f"adapters of rank {options.lora_rank} on {source} (--lora-rank)"
    elif options.student is not None:
        what = f"{options.student}, all weights (--student)"
    else:
        what = f"a copy of {source}, all weights (no --student, no --lora-rank)"
    if options.student_layers:
        what += f", {options.student_layers} of its layers (--student-layers)"
    if options.student_bits:
        what += f", with weights of {options.student_bits} bits (--student-bits)"
    latent = trainer.denoiser().latent
    noise = f", with a noise input of {latent.dim} numbers per {latent.per}" if latent else ""
    return f"{what}{noise}; {trained:,} numbers are trained, in {_dtype(model)}"


def _samples(trainer: DiscreteDistillationTrainer) -> str:
    model, options = unwrapped(trainer.model), trainer.args
    if isinstance(model, BlockDiffusionLM) and trainer.objective.over != "rows":
        rollouts = trainer.objective.rollouts
        rule = "" if rollouts is None else f"; rollouts by the rule {rollouts.unmasking.id}"
        return (
            f"decoded in blocks of {model.config.block_size} (the student is a block-diffusion "
            f"model){rule}"
        )
    rounds = f", after {options.rounds} rounds" if options.rounds > 1 else ""
    sampler = trainer.objective.sampler.id
    return f"{sampler} steps, {options.student_steps} network calls each (--student-steps){rounds}"


def _training(trainer: DiscreteDistillationTrainer, options: DistillOptions) -> str:
    rollouts = trainer.objective.rollouts
    on = f"what the {rollouts.by} decodes behind prompts of" if rollouts else "rows of"
    rate, named = trainer.args.learning_rate, options.learning_rate is not None
    why = "--learning-rate" if named else "what goes with such a student; --learning-rate"
    return f"{options.steps:,} steps on {on} {options.data}, at a rate of {rate:g} ({why})"


def _dtype(model: object) -> str:
    return str(getattr(model, "dtype", "float32")).removeprefix("torch.")
