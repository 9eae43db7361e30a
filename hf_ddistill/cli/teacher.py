"""`hf-ddistill teacher`: train a diffusion model from data."""

from __future__ import annotations

import argparse

import torch
from transformers import AutoTokenizer, set_seed

from hf_ddistill.cli.common import (
    add_data,
    add_diffusion,
    build_diffusion,
    check_output,
    load_data,
    output_folder,
    positive,
    without_labels,
)
from hf_ddistill.cli.resuming import train
from hf_ddistill.models import DDiTConfig, DDiTForDiscreteDiffusion
from hf_ddistill.processes import Process
from hf_ddistill.training import DiscreteDiffusionConfig, DiscreteDiffusionTrainer

HELP = "train a teacher from data by maximum likelihood"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--output", required=True, help="folder of the model")
    add_data(parser)
    add_diffusion(parser)
    parser.add_argument("--tokenizer", help="folder or id, for text")
    parser.add_argument("--vocab-size", type=positive, help="tokens, the mask included (no text)")
    parser.add_argument("--max-length", type=positive, help="tokens in a row (text)")
    parser.add_argument("--hidden-size", type=positive, default=256)
    parser.add_argument("--layers", type=positive, default=6)
    parser.add_argument("--heads", type=positive, default=4)
    parser.add_argument(
        "--token-shape", type=positive, nargs="+", help="of images, such as 8 8 (digits have it)"
    )
    parser.add_argument("--class-conditional", action="store_true", help="use the data's labels")
    parser.add_argument(
        "--position-embedding",
        default="rotary_learned",
        choices=["rotary_learned", "learned", "rotary"],
    )
    add_training(parser, learning_rate=1e-3)


def add_training(parser: argparse.ArgumentParser, learning_rate: float) -> None:
    """The options of a run of a Trainer."""
    parser.add_argument("--steps", type=positive, default=1000, help="optimizer steps")
    parser.add_argument("--batch-size", type=positive, default=64)
    parser.add_argument("--accumulate", type=positive, default=1)
    parser.add_argument("--learning-rate", type=float, default=learning_rate)
    parser.add_argument("--ema-decay", type=float, default=0.999)
    parser.add_argument("--bf16", action="store_true", help="mixed precision")
    parser.add_argument("--cpu", action="store_true", help="stay on the CPU")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--save-steps",
        type=positive,
        help="checkpoint every so many steps, of which the last two are kept (default: a tenth of "
        "all, at most 500)",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on from the last whole checkpoint in --output, which must be of the same settings "
        "and data (--steps may be more); Ctrl-C and SIGTERM leave one",
    )


def training_options(args: argparse.Namespace) -> dict:
    """Those options as arguments of `TrainingArguments`."""
    return {
        "output_dir": str(output_folder(args.output)),
        "max_steps": args.steps,
        "per_device_train_batch_size": args.batch_size,
        "gradient_accumulation_steps": args.accumulate,
        "learning_rate": args.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": min(100, args.steps // 10),
        "ema_decay": args.ema_decay,
        "bf16": args.bf16,
        "use_cpu": args.cpu or not torch.cuda.is_available(),
        "seed": args.seed,
        "save_strategy": "steps",
        "save_steps": args.save_steps or min(500, max(1, args.steps // 10)),
        "save_total_limit": 2,
        "logging_steps": max(1, args.steps // 50),
        "report_to": "none",
    }


def run(args: argparse.Namespace) -> int:
    """Train and save."""
    check_output(args.output)
    Process.named(args.process) if not args.process.startswith("{") else None
    data = load_data(args)
    if args.data.startswith("digits"):
        args.token_shape = [8, 8]
    tokenizer = AutoTokenizer.from_pretrained(args.tokenizer) if args.tokenizer else None
    # The weights are drawn before `Trainer` sets it.
    set_seed(args.seed)
    vocab_size, length, classes = _sizes(args, data, tokenizer)
    diffusion = build_diffusion(args.process, args.schedule, vocab_size)
    model = DDiTForDiscreteDiffusion(
        DDiTConfig(
            vocab_size=diffusion.vocab_size,
            hidden_size=args.hidden_size,
            num_hidden_layers=args.layers,
            num_attention_heads=args.heads,
            max_position_embeddings=length,
            token_shape=args.token_shape,
            position_embedding=args.position_embedding,
            # Masks alone tell the time of a masked state; other noise does not show.
            time_conditioning=not diffusion.reveals,
            num_classes=classes,
            mask_token_id=diffusion.process.mask_token_id,
            pad_token_id=None if tokenizer is None else tokenizer.pad_token_id,
        )
    )
    data = data if classes else without_labels(data)
    trainer = DiscreteDiffusionTrainer(
        model,
        DiscreteDiffusionConfig(**training_options(args), max_length=args.max_length),
        diffusion=diffusion,
        train_dataset=data,
        processing_class=tokenizer,
    )
    train(trainer, args.output if args.resume else None, args.resume, "--resume")
    trainer.save_model()
    print(f"A teacher of {model.num_parameters():,} parameters is in {args.output}.")
    return 0


def _sizes(args: argparse.Namespace, data: object, tokenizer: object) -> tuple[int, int, int]:
    """K with the mask, L and the number of classes."""
    first = next(iter(data))
    if "input_ids" not in first:
        if tokenizer is None:
            raise ValueError("Text needs --tokenizer, a folder or id.")
        if tokenizer.mask_token_id is None and args.process == "absorbing":
            raise ValueError("The tokenizer has no mask token, which absorbing noise needs.")
        return len(tokenizer), args.max_length or 256, 0
    length = len(first["input_ids"])
    size = args.vocab_size
    if size is None:
        highest = max(max(row["input_ids"]) for row in data)
        size = highest + 1 + (args.process in ("absorbing", "hybrid"))
    classes = 0
    if args.class_conditional:
        label = next((key for key in ("class_labels", "label") if key in first), None)
        if label is None:
            raise ValueError("--class-conditional needs a column 'label' in the data.")
        classes = max(int(row[label]) for row in data) + 1
    return size, length, classes
