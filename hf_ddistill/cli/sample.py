"""`hf-ddistill sample`: draw from a model."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from hf_ddistill.cli.common import add_device, add_json, pick_device, positive, write_json
from hf_ddistill.cli.console import is_terminal
from hf_ddistill.cli.members import member, name_or_json
from hf_ddistill.cli.plots import save_grid
from hf_ddistill.cli.values import CALLS, SEED, TEMPERATURE, number, png_file, setting, whole
from hf_ddistill.hub import load_pipeline
from hf_ddistill.models import BlockDiffusionLM, unwrapped
from hf_ddistill.pipelines import DiscreteDiffusionPipeline
from hf_ddistill.schedulers import DiscreteSchedulerBase
from hf_ddistill.unmasking import Unmasking

HELP = "draw samples from a model"
#: Of a block-diffusion model, where neither it nor the user says.
NEW_TOKENS = 64
SCHEDULERS = {cls.__name__: cls for cls in DiscreteSchedulerBase.__subclasses__()}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("model", help="folder or Hub id of a model or pipeline")
    parser.add_argument("--steps", type=CALLS, help="network calls (default: the model's own)")
    parser.add_argument("--count", type=positive, default=4, help="samples")
    parser.add_argument("--prompt", help="how text begins (default: as the model does)")
    parser.add_argument("--length", type=positive, help="tokens (default: the model's window)")
    parser.add_argument("--class-label", type=whole(-1), help="of a class, or -1 (default: none)")
    parser.add_argument(
        "--guidance", type=number(), help="weight of guidance by the class (default: none)"
    )
    parser.add_argument(
        "--temperature",
        type=TEMPERATURE,
        help="of the draws (default: the one that was saved, or 1)",
    )
    parser.add_argument(
        "--scheduler",
        choices=list(SCHEDULERS),
        help="the step rule (default: the one that was saved)",
    )
    add_decoding(parser)
    parser.add_argument("--seed", type=SEED, default=0, help="of the draws, one for each sample")
    add_device(parser)
    parser.add_argument(
        "--image", type=png_file, metavar="FILE", help="write the samples as one PNG"
    )
    add_json(parser, "tokens (and texts)")


def add_decoding(parser: argparse.ArgumentParser, several: bool = False) -> None:
    """How a block-diffusion model decodes; with `several`, in several ways, one after another."""
    count = {"nargs": "+"} if several else {}
    blocks = parser.add_argument_group("block-diffusion models")
    blocks.add_argument(
        "--max-new-tokens", type=positive, help="behind the prompt (default: the model's, or 64)"
    )
    blocks.add_argument(
        "--unmasking",
        type=setting,
        **count,
        help="the rule that decides tokens: an id (hf-ddistill list unmasking), or JSON (default: "
        "the model's)",
    )
    blocks.add_argument(
        "--steps-per-block",
        type=CALLS,
        **count,
        help="calls that a static rule plans (default: a token each)",
    )


def run(args: argparse.Namespace) -> int:
    """Sample and print."""
    if args.unmasking is not None:
        member(Unmasking, "--unmasking", args.unmasking)
    pipe = open_pipeline(args.model, args.device, args.scheduler, args.temperature)
    # One generator for each row: the first samples stay the same whatever the count.
    generators = [torch.Generator().manual_seed(args.seed * 100_003 + i) for i in range(args.count)]
    if isinstance(unwrapped(pipe.model), BlockDiffusionLM):
        _check_blocks(args)
        settings = decoding(pipe, args, args.unmasking, args.steps_per_block)
        out = pipe(args.prompt, batch_size=args.count, generator=generators, **settings)
    else:
        _check_no_blocks(args)
        given = {
            "length": args.length,
            "num_inference_steps": args.steps,
            "class_labels": args.class_label,
            "guidance_scale": None if args.guidance is None else 1 + args.guidance,
            "output_type": "image" if args.image else None,
        }
        given = {key: value for key, value in given.items() if value is not None}
        out = pipe(args.prompt, batch_size=args.count, generator=generators, **given)
    rows = [{"tokens": tokens} for tokens in out.sequences.tolist()]
    for i, row in enumerate(rows):
        if out.texts is not None:
            row["text"] = out.texts[i]
        if not args.image:
            print(row.get("text", row["tokens"]))
    if args.image:
        save_grid(Path(args.image), out.images)
        print(f"{len(rows)} samples are in {args.image}.")
    write_json(args.json, {"nfe": out.num_network_calls, "rows": rows})
    return 0


def open_pipeline(
    name: str, device: torch.device | None, scheduler: str | None, temperature: float | None
) -> DiscreteDiffusionPipeline:
    """A pipeline with the sampler that was saved, but for what is given."""
    pipe = load_pipeline(name).to(pick_device(device))
    pipe.set_progress_bar_config(disable=not is_terminal())
    if isinstance(unwrapped(pipe.model), BlockDiffusionLM):
        if scheduler is not None:
            raise ValueError(f"--scheduler: not for {name}, which decodes by blocks (--unmasking).")
        return pipe
    kind = type(pipe.scheduler) if scheduler is None else SCHEDULERS[scheduler]
    own = {} if temperature is None else {"temperature": temperature}
    pipe.scheduler = kind.from_config(pipe.scheduler.config, **own)
    return pipe


def decoding(
    pipe: DiscreteDiffusionPipeline,
    args: argparse.Namespace,
    unmasking: str | None,
    steps_per_block: int | None,
) -> dict[str, Any]:
    """The settings of `generate` that are given; the model's own hold for all others."""
    own, temperature = unwrapped(pipe.model).generation_config, args.temperature
    given: dict[str, Any] = {
        "max_new_tokens": args.max_new_tokens or own.max_new_tokens or NEW_TOKENS
    }
    if temperature is None and own.do_sample is None and own.temperature is None:
        temperature = 1.0  # nothing was saved: several samples are to differ
    if temperature is not None:
        given |= {"temperature": temperature, "do_sample": temperature > 0}
    if unmasking is not None:
        given["unmasking"] = name_or_json("--unmasking", unmasking)
    if steps_per_block is not None:
        given["steps_per_block"] = steps_per_block
    return given


def _check_blocks(args: argparse.Namespace) -> None:
    """Raise for options that a block-diffusion model has no use for."""
    for name in ("steps", "length", "class_label", "guidance", "image"):
        if getattr(args, name) is not None:
            flag = "--" + name.replace("_", "-")
            raise ValueError(f"{flag}: not for {args.model}, which decodes behind a prompt.")


def _check_no_blocks(args: argparse.Namespace) -> None:
    """Raise for options of block-diffusion models alone."""
    for name in ("max_new_tokens", "unmasking", "steps_per_block"):
        if getattr(args, name) is not None:
            flag = "--" + name.replace("_", "-")
            raise ValueError(f"{flag}: of block-diffusion models, and {args.model} is none.")
