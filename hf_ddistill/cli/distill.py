"""`hf-ddistill distill`: from a teacher to a student of few steps."""

from __future__ import annotations

import argparse

from peft import LoraConfig
from transformers import AutoTokenizer, PreTrainedModel

from hf_ddistill.cli.common import (
    add_data,
    check_output,
    load_data,
    name_or_json,
    positive,
    without_labels,
)
from hf_ddistill.cli.resuming import train
from hf_ddistill.cli.teacher import add_training, training_options
from hf_ddistill.hub import is_causal_name, load_model
from hf_ddistill.models import as_denoiser, unwrapped
from hf_ddistill.objectives import Objective
from hf_ddistill.training import DiscreteDistillationConfig, DiscreteDistillationTrainer

HELP = "distil a teacher into a student of few steps"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument(
        "--teacher", required=True, nargs="+", help="folder or Hub id; of several, their mean"
    )
    parser.add_argument("--student", help="folder or Hub id; a copy of the teacher if not given")
    parser.add_argument("--output", required=True, help="folder of the student")
    add_data(parser)
    parser.add_argument("--objective", default="ecd", help="an id, or JSON with its settings")
    parser.add_argument(
        "--student-steps", type=positive, default=4, help="network calls per sample"
    )
    parser.add_argument("--rounds", type=positive, default=1)
    parser.add_argument(
        "--noise-dim", type=int, default=0, help="noise input per position of a copied DDiT"
    )
    parser.add_argument("--auxiliary-learning-rate", type=float, help="the student's if not given")
    parser.add_argument("--auxiliary-warmup-steps", type=int, default=0)
    parser.add_argument("--auxiliary-updates", type=positive, default=1, help="for each one of it")
    parser.add_argument("--tokenizer", help="folder or id, for text; the teacher's if it has one")
    parser.add_argument("--max-length", type=positive, help="tokens in a row (text)")
    parser.add_argument("--lora-rank", type=positive, help="train adapters of this rank")
    rollouts = parser.add_argument_group(
        "rollouts", "of objectives that train on what student or teacher decode behind prompts"
    )
    rollouts.add_argument("--prompt-length", type=int, help="tokens of a row that are the prompt")
    rollouts.add_argument("--rollout-tokens", type=positive, default=64, help="new tokens")
    rollouts.add_argument("--rollout-min-tokens", type=positive, default=1, help="at the start")
    rollouts.add_argument("--rollout-ramp-steps", type=int, default=0, help="from least to most")
    rollouts.add_argument("--rollout-updates", type=positive, default=1, help="steps on the same")
    rollouts.add_argument("--rollout-unmasking", default="threshold", help="an id, or JSON")
    rollouts.add_argument("--rollout-steps-per-block", type=positive, help="of a static rule")
    rollouts.add_argument("--rollout-block-size", type=positive, help="decoded at a time")
    rollouts.add_argument("--rollout-temperature", type=float, default=1.0)
    add_training(parser, learning_rate=3e-4)


def run(args: argparse.Namespace) -> int:
    """Train and save."""
    check_output(args.output)
    objective = Objective.from_config(name_or_json("--objective", args.objective))
    model, teacher, adapters = _networks(args)
    causal = isinstance(teacher, str)
    shown = model if teacher is None or causal else teacher
    shown = shown[0] if isinstance(shown, list) else shown
    diffusion = as_denoiser(shown).diffusion
    data = load_data(args)
    if not getattr(unwrapped(shown).config, "num_classes", 0):
        data = without_labels(data)
    # A student that was converted has the teacher's tokens and the mask, and is saved with them.
    needs = causal or "input_ids" not in next(iter(data))
    source = args.student if causal else args.teacher[0]
    tokenizer = AutoTokenizer.from_pretrained(args.tokenizer or source) if needs else None
    trainer = DiscreteDistillationTrainer(
        model,
        teacher,
        objective,
        DiscreteDistillationConfig(
            **training_options(args),
            student_steps=args.student_steps,
            rounds=args.rounds,
            noise_dim=args.noise_dim,
            auxiliary_learning_rate=args.auxiliary_learning_rate,
            auxiliary_warmup_steps=args.auxiliary_warmup_steps,
            auxiliary_updates=args.auxiliary_updates,
            max_length=args.max_length,
            prompt_length=args.prompt_length,
            rollout_tokens=args.rollout_tokens,
            rollout_min_tokens=args.rollout_min_tokens,
            rollout_ramp_steps=args.rollout_ramp_steps,
            rollout_updates=args.rollout_updates,
            rollout_unmasking=name_or_json("--rollout-unmasking", args.rollout_unmasking),
            rollout_steps_per_block=args.rollout_steps_per_block,
            rollout_block_size=args.rollout_block_size,
            rollout_temperature=args.rollout_temperature,
        ),
        peft_config=adapters,
        train_dataset=data,
        processing_class=tokenizer,
        diffusion=None if args.student else diffusion,
    )
    train(trainer, args.output if args.resume else None, args.resume, "--resume")
    trainer.save_model()
    of_blocks = getattr(unwrapped(trainer.model).config, "block_size", None)
    kind = f"blocks of {of_blocks}" if of_blocks else f"{args.student_steps} steps"
    print(f"A student of {kind} is in {args.output}.")
    return 0


def _lora(rank: int) -> LoraConfig:
    # alpha = rank: the adapters' update is not scaled down as their rank grows.
    return LoraConfig(r=rank, lora_alpha=rank, target_modules="all-linear")


def _networks(
    args: argparse.Namespace,
) -> tuple[
    PreTrainedModel | None, PreTrainedModel | list[PreTrainedModel] | str | None, LoraConfig | None
]:
    """Student, teacher (the name of a causal one, a list of several) and adapters."""
    lora = _lora(args.lora_rank) if args.lora_rank else None
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
        return load_model(args.student), first, lora
    teachers = [load_model(name) for name in args.teacher]
    if others:
        # Adapters need a base of their own: the first teacher is one of those that are averaged.
        source = args.student or (first if lora else None)
        return (load_model(source) if source else None), teachers, lora
    if lora is not None:
        return teachers[0], None, lora
    return (load_model(args.student) if args.student else None), teachers[0], None
