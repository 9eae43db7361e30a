"""`hf-ddistill sample`: draw from a model."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from hf_ddistill.cli.common import name_or_json, pick_device, positive, write_json
from hf_ddistill.cli.plots import save_grid
from hf_ddistill.hub import load_pipeline
from hf_ddistill.models import BlockDiffusionLM
from hf_ddistill.pipelines import DiscreteDiffusionPipeline, DiscreteDiffusionPipelineOutput
from hf_ddistill.schedulers import DiscreteSchedulerBase

HELP = "draw samples from a model"
SCHEDULERS = {cls.__name__: cls for cls in DiscreteSchedulerBase.__subclasses__()}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("model", help="folder or Hub id of a model or pipeline")
    parser.add_argument("--steps", type=positive, help="network calls (the model's own number)")
    parser.add_argument("--count", type=positive, default=4)
    parser.add_argument("--prompt", help="how text begins")
    parser.add_argument("--length", type=positive)
    parser.add_argument("--class-label", type=int)
    parser.add_argument("--guidance", type=float, default=0.0)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--scheduler", choices=list(SCHEDULERS), default="AncestralScheduler")
    blocks = parser.add_argument_group("block-diffusion models")
    blocks.add_argument("--max-new-tokens", type=positive, help="behind the prompt (default 64)")
    blocks.add_argument("--unmasking", help="the rule that decides tokens: an id, or JSON")
    blocks.add_argument("--steps-per-block", type=positive, help="calls that a rule plans")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device")
    parser.add_argument("--image", metavar="FILE", help="write the samples as one PNG")
    parser.add_argument("--json", metavar="FILE", help="write tokens (and texts) as rows")


def run(args: argparse.Namespace) -> int:
    """Sample and print."""
    pipe = load_pipeline(args.model).to(pick_device(args.device))
    # One generator for each row: the first samples stay the same whatever the count.
    generators = [torch.Generator().manual_seed(args.seed * 100_003 + i) for i in range(args.count)]
    if isinstance(pipe.model, BlockDiffusionLM):
        out = _behind_a_prompt(pipe, args, generators)
    else:
        pipe.scheduler = SCHEDULERS[args.scheduler].from_config(
            pipe.scheduler.config, temperature=args.temperature
        )
        out = pipe(
            args.prompt,
            batch_size=args.count,
            length=args.length,
            num_inference_steps=args.steps,
            class_labels=args.class_label,
            guidance_scale=1 + args.guidance,
            generator=generators,
            output_type="image" if args.image else None,
        )
    rows = [{"tokens": tokens} for tokens in out.sequences.tolist()]
    for i, row in enumerate(rows):
        if out.texts is not None:
            row["text"] = out.texts[i]
        print(row.get("text", row["tokens"]))
    if args.image:
        save_grid(Path(args.image), out.images)
    write_json(args.json, {"nfe": out.num_network_calls, "rows": rows})
    return 0


def _behind_a_prompt(
    pipe: DiscreteDiffusionPipeline, args: argparse.Namespace, generators: list[torch.Generator]
) -> DiscreteDiffusionPipelineOutput:
    """Blocks behind the prompt, or behind the model's token of the beginning."""
    unmasking = None if args.unmasking is None else name_or_json("--unmasking", args.unmasking)
    given = {"unmasking": unmasking, "steps_per_block": args.steps_per_block}
    return pipe(
        args.prompt,
        batch_size=args.count,
        max_new_tokens=args.max_new_tokens or 64,
        temperature=args.temperature,
        do_sample=args.temperature > 0,
        generator=generators,
        **{key: value for key, value in given.items() if value is not None},
    )
