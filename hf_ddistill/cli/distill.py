"""`hf-ddistill distill`: from a teacher to a student of few steps."""

from __future__ import annotations

import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from hf_ddistill.cli.data import (
    check_length,
    load_parts,
    without_labels,
)
from hf_ddistill.cli.members import member
from hf_ddistill.cli.options.distill import DistillOptions
from hf_ddistill.cli.recipe import recipe
from hf_ddistill.cli.resuming import train
from hf_ddistill.cli.run_folder import check_run_folder, run_folder, save_result, trainer_made
from hf_ddistill.cli.teachers import composed
from hf_ddistill.cli.tokens import name_mask
from hf_ddistill.cli.training_arguments import training_arguments
from hf_ddistill.hub import load_model
from hf_ddistill.models import as_denoiser, check_same_tokens, unwrapped
from hf_ddistill.models.loading import load_checkpoint
from hf_ddistill.models.opening import is_causal_name
from hf_ddistill.models.random_tokens import enter_random_tokens
from hf_ddistill.models.tokenizers import has_tokenizer, load_tokenizer
from hf_ddistill.objectives import Objective
from hf_ddistill.training import (
    DiscreteDistillationConfig,
    DiscreteDistillationTrainer,
)
from hf_ddistill.training.rates import default_learning_rate
from hf_ddistill.training.teacher_models import is_causal


def run(options: DistillOptions) -> int:
    """Train and save."""
    named = (*options.teacher, options.student, options.tokenizer)
    check_run_folder(options, [name for name in named if name])
    objective = member(Objective, "--objective", options.objective)
    model, teacher, adapters = _networks(options)
    causal = is_causal(teacher)
    shown = model if teacher is None or causal else teacher
    shown = shown[0] if isinstance(shown, list) else shown
    tokenizer = _tokenizer(options, options.student if causal else options.teacher[0])
    diffusion = as_denoiser(shown).diffusion
    data, held_out = load_parts(options)
    if not getattr(unwrapped(shown).config, "num_classes", 0):
        data, held_out = without_labels(data), without_labels(held_out)
    for rows in (data, held_out):
        check_length(rows, shown, options.max_length)
    if tokenizer is None and "input_ids" not in next(iter(data)):
        raise ValueError(f"Text needs --tokenizer: {options.teacher[0]} holds none.")
    if causal and options.makes_teacher:
        raise ValueError(
            "--guidance, --anchor and --moving-from are of diffusion teachers, and "
            f"{options.teacher[0]} is a causal language model."
        )
    if teacher is not None and not causal:
        teacher = composed(teacher, options, next(iter(data)))
    arguments = training_arguments(options, held_out is not None)
    if options.learning_rate is None:
        arguments["learning_rate"] = default_learning_rate(shown, adapters is not None)
    with trainer_made(options.output):
        trainer = DiscreteDistillationTrainer(
            model,
            teacher,
            objective,
            DiscreteDistillationConfig(**arguments),
            peft_config=adapters,
            train_dataset=data,
            eval_dataset=held_out,
            processing_class=tokenizer,
            diffusion=None if options.student else diffusion,
        )
    print(recipe(trainer, options))
    with run_folder(trainer, options.output, options.overwrite):
        train(trainer, options.output if options.resume else None, options.resume, "--resume")
        save_result(trainer, options.output)
    print(_done(trainer, options))
    return 0


def _done(trainer: DiscreteDistillationTrainer, options: DistillOptions) -> str:
    """What was made, and how it is sampled where that is not the default of its kind."""
    if report := trainer.guard.report():
        print(report)
    of_blocks = getattr(unwrapped(trainer.model).config, "block_size", None)
    if of_blocks is None:
        return f"A student of {options.student_steps} steps is in {options.output}."
    if trainer.objective.over != "rows":
        return f"A student of blocks of {of_blocks} is in {options.output}."
    how = f"hf-ddistill sample {options.output} --steps {options.student_steps}"
    return (
        f"A student of {options.student_steps} steps is in {options.output}; without --steps it is "
        f"decoded behind a prompt as before: {how}"
    )


def _tokenizer(options: DistillOptions, source: str) -> PreTrainedTokenizerBase | None:
    """The one that was named, or that of the teacher (of a causal one: of the student, which has
    its tokens and the mask); the student is saved with it."""
    if options.tokenizer is not None:
        return load_tokenizer(options.tokenizer)
    return load_tokenizer(source) if has_tokenizer(source) else None


def _lora(rank: int) -> LoraConfig:
    # alpha = rank: the adapters' update is not scaled down as their rank grows.
    return LoraConfig(r=rank, lora_alpha=rank, target_modules="all-linear")


def _networks(
    options: DistillOptions,
) -> tuple[
    PreTrainedModel | None, PreTrainedModel | list[PreTrainedModel] | None, LoraConfig | None
]:
    """Student, teacher (a list of several; none for the student's own base) and adapters."""
    lora = _lora(options.lora_rank) if options.lora_rank else None
    trained = getattr(torch, options.dtype)
    kept = (
        trained if options.teacher_dtype is None else getattr(torch, options.teacher_dtype, "auto")
    )
    first, *others = options.teacher
    causal = [name for name in options.teacher if is_causal_name(name)]
    if causal and others:
        raise ValueError(
            f"Several teachers are averaged as denoisers, and {causal[0]} is a causal language "
            "model, which can be given alone."
        )
    if causal:
        if options.student is None:
            raise ValueError(
                f"{first} is a causal language model: make its student with hf-ddistill "
                "convert, and give that as --student."
            )
        return _opened(options, options.student, trained), _causal(options, kept), lora
    # Adapters beside several teachers need a base of their own: the first is one of the averaged.
    source = options.student or (first if lora and others else None)
    teachers = [_opened(options, name, kept) for name in options.teacher]
    student = _opened(options, source, trained) if source else None
    if others:
        return student, teachers, lora
    if lora is not None and student is None:
        return teachers[0], None, lora
    return student, teachers[0], lora


def _opened(options: DistillOptions, name: str, dtype: torch.dtype | str) -> PreTrainedModel:
    """A model that says which token is its mask, with its own tokenizer's word if need be."""
    model = load_model(name, dtype=dtype)
    name_mask(model, _tokenizer(options, name), options.mask_token_id)
    if options.random_tokens is not None:
        enter_random_tokens(model, options.random_tokens)
    return model


def _causal(options: DistillOptions, dtype: torch.dtype | str) -> PreTrainedModel:
    """A causal teacher, which must have the tokens of its student."""
    name = options.teacher[0]
    tokenizer = _tokenizer(options, options.student)
    if tokenizer is not None and has_tokenizer(name):
        check_same_tokens(load_tokenizer(name), tokenizer)
    return load_checkpoint(AutoModelForCausalLM, name, dtype=dtype)
