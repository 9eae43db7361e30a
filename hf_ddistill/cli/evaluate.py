"""`hf-ddistill evaluate`: quality and diversity of samples against network calls."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from hf_ddistill.cli.common import (
    add_device,
    add_seed,
    pick_device,
    positive,
    print_table,
    write_json,
)
from hf_ddistill.cli.data import WHAT
from hf_ddistill.cli.evaluate_blocks import block_rows
from hf_ddistill.cli.held_out import held_out_bound
from hf_ddistill.cli.sample import SCHEDULERS, add_decoding, open_pipeline
from hf_ddistill.cli.tokens import load_tokenizer
from hf_ddistill.cli.values import CALLS, TEMPERATURE
from hf_ddistill.evaluation import (
    DigitsJudge,
    GenerativePerplexity,
    corpus_entropy,
    digit_figures,
    load_digit_tokens,
    nfe_frontier,
    real_figures,
    split_digits,
    token_entropy,
    unique_fraction,
)
from hf_ddistill.hub import is_causal_name
from hf_ddistill.models import BlockDiffusionLM, unwrapped
from hf_ddistill.models.loading import load_checkpoint
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
        "--judge", default="none", help="none, digits, or a causal LM (folder or id)"
    )
    parser.add_argument(
        "--data", help=f"held out, for the bound on its nll per token: {WHAT} (default: no bound)"
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
    judge, real = _judge(args.judge, pipe, device, args.samples)
    bound = {} if args.data is None else {"nelbo": held_out_bound(pipe, args)}
    rows = [{"model": "real", "nfe": 0, **real}] if real else []
    if of_blocks:
        measured = list(block_rows(pipe, args, judge))
    else:
        sampler = partial(
            draw,
            pipe,
            seed=args.seed,
            batch_size=args.batch_size,
            length=args.length,
            prompt=args.prompt,
        )
        measured = nfe_frontier(sampler, args.nfe or list(NFE), args.samples, judge)
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


def _judge(
    name: str, pipe: DiscreteDiffusionPipeline, device: torch.device, samples: int
) -> tuple[Callable[..., Mapping[str, float]], Mapping[str, float]]:
    """The judge, of tokens and where they count, and its figures of so many real data where it
    knows some."""
    if name == "none":
        return _diversity, {}
    if name == "digits":
        if getattr(unwrapped(pipe.model).config, "token_shape", None) != [8, 8]:
            raise ValueError("--judge digits judges images of 8 x 8, which this model has not.")
        noise = pipe.scheduler.diffusion.process.noise_tokens
        levels = pipe.scheduler.diffusion.vocab_size - len(noise)
        split, judge = split_digits(*load_digit_tokens(levels)), DigitsJudge.fit(levels)
        sampled = partial(digit_figures, judge, real=split.train_tokens)
        return sampled, real_figures(judge, split, samples)
    if pipe.tokenizer is None:
        raise ValueError("A causal LM judges text, but this model has no tokenizer.")
    if not is_causal_name(name):
        raise ValueError(f"--judge takes none, digits or a causal LM, and {name} is none of them.")
    model = load_checkpoint(AutoModelForCausalLM, name, dtype=torch.float32).to(device)
    metric = GenerativePerplexity(model=model, tokenizer=load_tokenizer(name))
    return partial(_text, metric, pipe), {}


def _diversity(tokens: Tensor, where: Tensor | None = None) -> dict[str, float]:
    return {
        "entropy": token_entropy(tokens, where),
        "corpus_entropy": corpus_entropy(tokens, where),
        "unique": unique_fraction(tokens, where),
    }


def _text(
    metric: GenerativePerplexity,
    pipe: DiscreteDiffusionPipeline,
    tokens: Tensor,
    where: Tensor | None = None,
) -> dict[str, float]:
    rows = tokens if where is None else [row[own] for row, own in zip(tokens, where, strict=True)]
    texts = pipe.tokenizer.batch_decode(rows, skip_special_tokens=True)
    return {**_diversity(tokens, where), **metric.compute(predictions=texts)}
