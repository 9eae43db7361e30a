"""`hf-ddistill evaluate`: quality and diversity of samples against network calls."""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

import torch
from torch import Tensor

from hf_ddistill.cli.common import (
    add_device,
    add_seed,
    pick_device,
    positive,
    print_table,
    write_json,
)
from hf_ddistill.cli.data import WHAT, load
from hf_ddistill.cli.evaluate_blocks import block_rows
from hf_ddistill.cli.held_out import held_out_bound
from hf_ddistill.cli.members import member
from hf_ddistill.cli.sample import SCHEDULERS, add_decoding, open_pipeline
from hf_ddistill.cli.values import CALLS, TEMPERATURE, setting
from hf_ddistill.evaluation import DiversityJudge, Judge, Source, nfe_frontier
from hf_ddistill.models import BlockDiffusionLM, unwrapped
from hf_ddistill.pipelines import DiscreteDiffusionPipeline

HELP = "measure quality and diversity against the number of network calls"
NFE = (1, 2, 4, 8)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("model", help="folder or Hub id of a model or pipeline")
    parser.add_argument(
        "--nfe",
        type=CALLS,
        nargs="+",
        help="network calls per sample (default: 1 2 4 8; a block model's follow from its rule)",
    )
    parser.add_argument("--samples", type=positive, default=500, help="that are judged, a row")
    parser.add_argument("--batch-size", type=positive, default=250, help="drawn at once")
    parser.add_argument("--length", type=positive, help="tokens (default: the model's window)")
    parser.add_argument("--prompt", help="how text begins (default: as the model does)")
    parser.add_argument(
        "--judge",
        type=setting,
        default="diversity",
        help="an id (hf-ddistill list judges), JSON with settings, or a causal LM (folder or id)",
    )
    parser.add_argument(
        "--data",
        help="held out, for the bound on its nll per token, and for a judge that compares with "
        f"real data: {WHAT} (default: no bound)",
    )
    parser.add_argument("--split", default="train", help="of --data, such as test")
    parser.add_argument(
        "--max-length",
        type=positive,
        help="tokens in a row of its text (default: the model's window)",
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
    add_decoding(parser, several=True)
    add_device(parser)
    add_seed(parser)


def run(args: argparse.Namespace) -> int:
    """Measure, print and write."""
    device = pick_device(args.device)
    pipe = open_pipeline(args.model, device, args.scheduler, args.temperature)
    pipe.set_progress_bar_config(disable=True)
    of_blocks = isinstance(unwrapped(pipe.model), BlockDiffusionLM)
    _check(args, of_blocks)
    judge = _judge(args.judge)
    judge = judge.suited_to(_source(pipe, judge, args))
    real, figures = judge.real(args.samples), partial(judged, judge, pipe)
    bound = {} if args.data is None else {"nelbo": held_out_bound(pipe, args)}
    rows = [{"model": "real", "nfe": 0, **real}] if real else []
    if of_blocks:
        measured = list(block_rows(pipe, args, figures))
    else:
        sampler = partial(
            draw,
            pipe,
            seed=args.seed,
            batch_size=args.batch_size,
            length=args.length,
            prompt=args.prompt,
        )
        measured = nfe_frontier(sampler, args.nfe or list(NFE), args.samples, figures)
    rows += [{"model": args.model, **row, **bound, "seed": args.seed} for row in measured]
    print_table(rows)
    write_json(args.json, {"rows": rows})
    return 0


def _check(args: argparse.Namespace, of_blocks: bool) -> None:
    """Raise for options that the model has no use for."""
    others = ("nfe", "length") if of_blocks else ("max_new_tokens", "unmasking", "steps_per_block")
    for name in others:
        if getattr(args, name) is not None:
            flag = "--" + name.replace("_", "-")
            why = "it decodes by blocks" if of_blocks else "it does not decode by blocks"
            raise ValueError(f"{flag}: not for {args.model}; {why}.")
    if args.max_length is not None and args.data is None:
        raise ValueError("--max-length is of the text of --data, which is not given.")


def draw(
    pipe: DiscreteDiffusionPipeline,
    nfe: int,
    count: int,
    *,
    seed: int,
    batch_size: int,
    length: int | None = None,
    prompt: str | None = None,
) -> Tensor:
    """(count, L) tokens in `nfe` network calls, in batches; as many of each class as of others."""
    generator = torch.Generator().manual_seed(seed)
    classes = getattr(pipe.model.config, "num_classes", 0)
    parts = []
    for start in range(0, count, batch_size):
        size = min(batch_size, count - start)
        out = pipe(
            prompt,
            batch_size=size,
            length=length,
            num_inference_steps=nfe,
            class_labels=torch.arange(start, start + size) % classes if classes else None,
            generator=generator,
            output_type="tokens",
        )
        parts.append(out.sequences.cpu())
    return torch.cat(parts)


def _judge(text: str) -> Judge:
    """The judge of an id, of JSON, or of a name that one of them claims."""
    if text.startswith("{") or text in Judge.registry:
        return member(Judge, "--judge", text)
    for kind in Judge.registry.values():
        if (found := kind.claimed(text)) is not None:
            return found
    known = ", ".join(sorted(Judge.registry))
    raise ValueError(f"--judge takes {known}, or a causal LM, and {text} is none of them.")


def _source(pipe: DiscreteDiffusionPipeline, judge: Judge, args: argparse.Namespace) -> Source:
    """What the judge may know of the model, and the data where it needs some."""
    diffusion = pipe.scheduler.diffusion
    shape = getattr(unwrapped(pipe.model).config, "token_shape", None)
    real = None
    if judge.needs_real and args.data is not None:
        data = load(args.data, args.split)
        if "input_ids" not in data.column_names:
            raise ValueError(
                f"--judge {judge.id} takes rows of input_ids, which {args.data} lacks."
            )
        real = torch.tensor(data["input_ids"][:])
    return Source(
        values=diffusion.vocab_size - len(diffusion.process.noise_tokens),
        shape=None if shape is None else tuple(shape),
        writes_text=pipe.tokenizer is not None,
        real=real,
        device=pipe.model.device,
    )


def judged(
    judge: Judge, pipe: DiscreteDiffusionPipeline, tokens: Tensor, where: Tensor | None = None
) -> dict[str, Any]:
    """A judge's figures of a pipeline's tokens, or of their texts, with the tokens' diversity.

    Args:
        judge: suited to the pipeline.
        pipe: that drew them.
        tokens: (N, M).
        where: (N, M), where there are some; everywhere if None.
    """
    rows = tokens if where is None else [row[own] for row, own in zip(tokens, where, strict=True)]
    if judge.takes == "tokens":
        return judge(rows)
    texts = pipe.tokenizer.batch_decode(rows, skip_special_tokens=True)
    return {**DiversityJudge()(rows), **judge(texts)}
