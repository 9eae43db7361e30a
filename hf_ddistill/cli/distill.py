"""`hf-ddistill distill`: from a teacher to a student of few steps."""

from __future__ import annotations

import argparse

import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from hf_ddistill.cli.common import positive
from hf_ddistill.cli.data import (
    add_data,
    add_eval_data,
    check_length,
    load_data,
    load_eval_data,
    without_labels,
)
from hf_ddistill.cli.logged import logged
from hf_ddistill.cli.members import member
from hf_ddistill.cli.options import add_settings, settings
from hf_ddistill.cli.recipe import recipe
from hf_ddistill.cli.resuming import train
from hf_ddistill.cli.run_folder import check_run_folder, run_folder, save_result
from hf_ddistill.cli.teacher import add_training, training_options
from hf_ddistill.cli.tokens import add_mask, name_mask
from hf_ddistill.cli.values import DTYPES, setting
from hf_ddistill.hub import load_model
from hf_ddistill.models import as_denoiser, check_same_tokens, unwrapped
from hf_ddistill.models.loading import load_checkpoint
from hf_ddistill.models.opening import is_causal_name
from hf_ddistill.models.tokenizers import has_tokenizer, load_tokenizer
from hf_ddistill.objectives import Objective
from hf_ddistill.training import (
    DiscreteDiffusionConfig,
    DiscreteDistillationConfig,
    DiscreteDistillationTrainer,
)
from hf_ddistill.training.teacher_models import is_causal

HELP = "distil a teacher into a student of few steps"
EPILOG = logged(distillation=True)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument(
        "--teacher", required=True, nargs="+", help="folder or Hub id; of several, their mean"
    )
    parser.add_argument("--student", help="folder or Hub id (default: a copy of the teacher)")
    parser.add_argument("--output", required=True, help="folder of the student")
    add_data(parser)
    add_eval_data(parser)
    parser.add_argument(
        "--objective",
        type=setting,
        default="law_matching",
        help="an id (hf-ddistill list), or JSON",
    )
    parser.add_argument(
        "--tokenizer", help="folder or id, for text (default: the teacher's, if it has one)"
    )
    add_mask(parser)
    parser.add_argument("--lora-rank", type=positive, help="train adapters (default: all weights)")
    parser.add_argument(
        "--dtype", choices=list(DTYPES), default="float32", help="of the weights that are trained"
    )
    parser.add_argument(
        "--teacher-dtype",
        choices=["auto", *DTYPES],
        help="of a teacher beside --student; auto: as it was saved (default: that of --dtype)",
    )
    # A student's samples take the calls that it is made for.
    add_settings(parser, DiscreteDiffusionConfig, without=("ema_decay", "sample_steps"))
    add_settings(parser, DiscreteDistillationConfig)
    add_training(parser, learning_rate=3e-4)


def run(args: argparse.Namespace) -> int:
    """Train and save."""
    named = (*args.teacher, args.student, args.tokenizer)
    check_run_folder(args, [name for name in named if name])
    objective = member(Objective, "--objective", args.objective)
    model, teacher, adapters = _networks(args)
    causal = is_causal(teacher)
    shown = model if teacher is None or causal else teacher
    shown = shown[0] if isinstance(shown, list) else shown
    tokenizer = _tokenizer(args, args.student if causal else args.teacher[0])
    diffusion = as_denoiser(shown).diffusion
    data, held_out = load_data(args), load_eval_data(args)
    if not getattr(unwrapped(shown).config, "num_classes", 0):
        data, held_out = without_labels(data), without_labels(held_out)
    for rows in (data, held_out):
        check_length(rows, shown, args.max_length)
    if tokenizer is None and "input_ids" not in next(iter(data)):
        raise ValueError(f"Text needs --tokenizer: {args.teacher[0]} holds none.")
    own = settings(args, DiscreteDiffusionConfig) | settings(args, DiscreteDistillationConfig)
    trainer = DiscreteDistillationTrainer(
        model,
        teacher,
        objective,
        DiscreteDistillationConfig(**own | training_options(args, held_out is not None)),
        peft_config=adapters,
        train_dataset=data,
        eval_dataset=held_out,
        processing_class=tokenizer,
        diffusion=None if args.student else diffusion,
    )
    print(recipe(trainer, args))
    with run_folder(trainer, args.output, args.overwrite):
        train(trainer, args.output if args.resume else None, args.resume, "--resume")
        save_result(trainer, args.output)
    of_blocks = getattr(unwrapped(trainer.model).config, "block_size", None)
    kind = f"blocks of {of_blocks}" if of_blocks else f"{args.student_steps} steps"
    print(f"A student of {kind} is in {args.output}.")
    return 0


def _tokenizer(args: argparse.Namespace, source: str) -> PreTrainedTokenizerBase | None:
    """The one that was named, or that of the teacher (of a causal one: of the student, which has
    its tokens and the mask); the student is saved with it."""
    if args.tokenizer is not None:
        return load_tokenizer(args.tokenizer)
    return load_tokenizer(source) if has_tokenizer(source) else None


def _lora(rank: int) -> LoraConfig:
    # alpha = rank: the adapters' update is not scaled down as their rank grows.
    return LoraConfig(r=rank, lora_alpha=rank, target_modules="all-linear")


def _networks(
    args: argparse.Namespace,
) -> tuple[
    PreTrainedModel | None, PreTrainedModel | list[PreTrainedModel] | None, LoraConfig | None
]:
    """Student, teacher (a list of several; none for the student's own base) and adapters."""
    lora = _lora(args.lora_rank) if args.lora_rank else None
    trained = DTYPES[args.dtype]
    kept = trained if args.teacher_dtype is None else DTYPES.get(args.teacher_dtype, "auto")
    first, *others = args.teacher
    causal = [name for name in args.teacher if is_causal_name(name)]
    if causal and others:
        raise ValueError(
            f"Several teachers are averaged as denoisers, and {causal[0]} is a causal language "
            "model, which can be given alone."
        )
    if causal:
        if args.student is None:
            raise ValueError(
                f"{first} is a causal language model: make its student with hf-ddistill "
                "convert, and give that as --student."
            )
        return _opened(args, args.student, trained), _causal(args, kept), lora
    # Adapters beside several teachers need a base of their own: the first is one of the averaged.
    source = args.student or (first if lora and others else None)
    if source is None and args.teacher_dtype is not None:
        raise ValueError(
            "--teacher-dtype is of a teacher beside --student; without one the student is made of "
            "the teacher, whose weights have --dtype."
        )
    teachers = [_opened(args, name, kept) for name in args.teacher]
    student = _opened(args, source, trained) if source else None
    if others:
        return student, teachers, lora
    if lora is not None and student is None:
        return teachers[0], None, lora
    return student, teachers[0], lora


def _opened(args: argparse.Namespace, name: str, dtype: torch.dtype | str) -> PreTrainedModel:
    """A model that says which token is its mask, with its own tokenizer's word if need be."""
    model = load_model(name, dtype=dtype)
    name_mask(model, _tokenizer(args, name), args.mask_token_id)
    return model


def _causal(args: argparse.Namespace, dtype: torch.dtype | str) -> PreTrainedModel:
    """A causal teacher, which must have the tokens of its student."""
    name = args.teacher[0]
    tokenizer = _tokenizer(args, args.student)
    if tokenizer is not None and has_tokenizer(name):
        check_same_tokens(load_tokenizer(name), tokenizer)
    return load_checkpoint(AutoModelForCausalLM, name, dtype=dtype)
