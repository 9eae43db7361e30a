"""`hf-ddistill distill`: from a teacher to a student of few steps."""

from __future__ import annotations

import argparse

from peft import LoraConfig
from transformers import AutoTokenizer

from hf_ddistill.cli.common import (
    add_data,
    check_output,
    load_data,
    name_or_json,
    positive,
    without_labels,
)
from hf_ddistill.cli.teacher import add_training, training_options
from hf_ddistill.hub import load_model
from hf_ddistill.models import as_denoiser, unwrapped
from hf_ddistill.objectives import Objective
from hf_ddistill.training import DiscreteDistillationConfig, DiscreteDistillationTrainer

HELP = "distil a teacher into a student of few steps"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--teacher", required=True, help="folder or Hub id")
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
    add_training(parser, learning_rate=3e-4)


def run(args: argparse.Namespace) -> int:
    """Train and save."""
    check_output(args.output)
    objective = Objective.from_config(name_or_json("--objective", args.objective))
    teacher = load_model(args.teacher)
    diffusion = as_denoiser(teacher).diffusion
    data = load_data(args)
    if not getattr(unwrapped(teacher).config, "num_classes", 0):
        data = without_labels(data)
    if args.lora_rank:
        model, other = teacher, None
        adapters = LoraConfig(r=args.lora_rank, target_modules="all-linear")
    else:
        model, other = (load_model(args.student) if args.student else None), teacher
        adapters = None
    first = next(iter(data))
    needs = "input_ids" not in first
    tokenizer = AutoTokenizer.from_pretrained(args.tokenizer or args.teacher) if needs else None
    trainer = DiscreteDistillationTrainer(
        model,
        other,
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
        ),
        peft_config=adapters,
        train_dataset=data,
        processing_class=tokenizer,
        diffusion=None if args.student else diffusion,
    )
    trainer.train(resume_from_checkpoint=args.resume or None)
    trainer.save_model()
    print(f"A student of {args.student_steps} steps is in {args.output}.")
    return 0
