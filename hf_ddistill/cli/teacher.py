"""`hf-ddistill teacher`: train a diffusion model from data."""

from __future__ import annotations

import argparse

from transformers import set_seed

from hf_ddistill.cli.common import positive
from hf_ddistill.cli.console import is_terminal
from hf_ddistill.cli.data import (
    add_data,
    add_eval_data,
    check_length,
    load_data,
    load_eval_data,
    without_labels,
)
from hf_ddistill.cli.logged import logged
from hf_ddistill.cli.new_network import bound_of, new_network
from hf_ddistill.cli.options import add_optimisation, add_settings, optimisation, settings
from hf_ddistill.cli.resuming import train
from hf_ddistill.cli.run_folder import check_run_folder, run_folder, save_result
from hf_ddistill.cli.tokens import add_mask, name_mask
from hf_ddistill.cli.values import DTYPES, RATE, SEED, number, setting
from hf_ddistill.hub import load_model
from hf_ddistill.models import unwrapped
from hf_ddistill.models.tokenizers import has_tokenizer, load_tokenizer
from hf_ddistill.training import DiscreteDiffusionConfig, DiscreteDiffusionTrainer

HELP = "train a teacher from data by maximum likelihood"


EPILOG = logged()
#: What a new network is made with; one that exists (--init) has its own.
FRESH = {
    "process": "absorbing",
    "schedule": "log_linear",
    "hidden_size": 256,
    "layers": 6,
    "heads": 4,
    "position_embedding": "rotary_learned",
}
FRESH_ALONE = ("vocab_size", "token_shape", "class_conditional")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--output", required=True, help="folder of the model")
    parser.add_argument(
        "--init",
        metavar="MODEL",
        help="a masked LM or DDiT to train on from: a folder or Hub id (default: a new network)",
    )
    add_data(parser)
    add_eval_data(parser)
    parser.add_argument("--tokenizer", help="folder or id, for text (default: that of --init)")
    add_mask(parser)
    parser.add_argument(
        "--dtype", choices=list(DTYPES), default="float32", help="of the weights that are trained"
    )
    fresh = parser.add_argument_group("a new network", "which --init has its own of")
    fresh.add_argument(
        "--process", type=setting, help="an id (hf-ddistill list), or JSON (default: absorbing)"
    )
    fresh.add_argument("--schedule", type=setting, help="an id, or JSON (default: log_linear)")
    fresh.add_argument(
        "--vocab-size", type=positive, help="tokens, noise included (default: those of the data)"
    )
    fresh.add_argument("--hidden-size", type=positive, help="width of the network (default: 256)")
    fresh.add_argument("--layers", type=positive, help="of the network (default: 6)")
    fresh.add_argument("--heads", type=positive, help="of attention in each layer (default: 4)")
    fresh.add_argument(
        "--token-shape",
        type=positive,
        nargs="+",
        help="of images, such as 8 8 (default: none; of digits 8 8)",
    )
    fresh.add_argument("--class-conditional", action="store_true", help="use the data's labels")
    fresh.add_argument(
        "--position-embedding",
        choices=["rotary_learned", "learned", "rotary"],
        help="how a position is told (default: rotary_learned)",
    )
    add_settings(parser, DiscreteDiffusionConfig, without=("ema_decay",))
    add_training(parser, learning_rate=1e-3)


def add_training(parser: argparse.ArgumentParser, learning_rate: float) -> None:
    """The options of a run of a Trainer."""
    parser.add_argument("--steps", type=positive, default=1000, help="optimizer steps")
    parser.add_argument("--batch-size", type=positive, default=64, help="rows in a batch")
    parser.add_argument("--accumulate", type=positive, default=1, help="batches in a step")
    parser.add_argument("--learning-rate", type=RATE, default=learning_rate, help="at its highest")
    parser.add_argument(
        "--ema-decay", type=number(0, 1, ")"), default=0.999, help="of the weights' mean; 0 is off"
    )
    add_optimisation(parser)
    parser.add_argument("--bf16", action="store_true", help="mixed precision")
    parser.add_argument("--cpu", action="store_true", help="stay on the CPU")
    parser.add_argument("--seed", type=SEED, default=0, help="of all that is drawn")
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


def training_options(args: argparse.Namespace, has_eval_data: bool = False) -> dict:
    """Those options as arguments of `TrainingArguments`."""
    return {
        **optimisation(args, has_eval_data),
        "output_dir": str(args.output),
        "max_steps": args.steps,
        "per_device_train_batch_size": args.batch_size,
        "gradient_accumulation_steps": args.accumulate,
        "learning_rate": args.learning_rate,
        "ema_decay": args.ema_decay,
        "bf16": args.bf16,
        "seed": args.seed,
        "save_strategy": "steps",
        "save_steps": args.save_steps or min(500, max(1, args.steps // 10)),
        "save_total_limit": 2,
        "disable_tqdm": not is_terminal(),
    }


def run(args: argparse.Namespace) -> int:
    """Train and save."""
    check_run_folder(args, [name for name in (args.init, args.tokenizer) if name])
    _check_fresh(args)
    data, held_out = load_data(args), load_eval_data(args)
    tokenizer = load_tokenizer(args.tokenizer) if args.tokenizer else None
    if args.init is not None and tokenizer is None and has_tokenizer(args.init):
        tokenizer = load_tokenizer(args.init)
    # The weights are drawn before `Trainer` sets it.
    set_seed(args.seed)
    if args.init is None:
        network, diffusion = new_network(args, data, tokenizer)
        objective = "nelbo"
    else:
        network, diffusion = load_model(args.init, dtype=DTYPES[args.dtype]), None
        name_mask(network, tokenizer, args.mask_token_id)
        objective = bound_of(network)
    if not getattr(unwrapped(network).config, "num_classes", 0):
        data, held_out = without_labels(data), without_labels(held_out)
    for rows in (data, held_out):
        check_length(rows, network, args.max_length)
    trainer = DiscreteDiffusionTrainer(
        network,
        DiscreteDiffusionConfig(
            **settings(args, DiscreteDiffusionConfig) | training_options(args, held_out is not None)
        ),
        objective,
        diffusion=diffusion,
        train_dataset=data,
        eval_dataset=held_out,
        processing_class=tokenizer,
    )
    with run_folder(trainer, args.output, args.overwrite):
        train(trainer, args.output if args.resume else None, args.resume, "--resume")
        save_result(trainer, args.output)
    print(f"A teacher of {network.num_parameters():,} parameters is in {args.output}.")
    return 0


def _check_fresh(args: argparse.Namespace) -> None:
    """Fill in what a new network is made with; refuse it beside one that exists."""
    if args.init is None:
        for name, default in FRESH.items():
            if getattr(args, name) is None:
                setattr(args, name, default)
        return
    given = [name for name in (*FRESH, *FRESH_ALONE) if getattr(args, name)]
    if given:
        flags = ", ".join("--" + name.replace("_", "-") for name in given)
        raise ValueError(f"{flags}: of a new network; {args.init} (--init) has its own.")
