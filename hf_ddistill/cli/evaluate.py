"""`hf-ddistill evaluate`: quality and diversity of samples against network calls."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_ddistill.cli.common import add_seed, pick_device, positive, print_table, write_json
from hf_ddistill.evaluation import (
    DigitsJudge,
    GenerativePerplexity,
    corpus_entropy,
    judge_real,
    judge_samples,
    load_digit_tokens,
    nfe_frontier,
    split_digits,
    token_entropy,
    unique_fraction,
)
from hf_ddistill.hub import load_pipeline
from hf_ddistill.pipelines import DiscreteDiffusionPipeline

HELP = "measure quality and diversity against the number of network calls"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("model", help="folder or Hub id of a model or pipeline")
    parser.add_argument("--nfe", type=positive, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--samples", type=positive, default=500)
    parser.add_argument("--batch-size", type=positive, default=250)
    parser.add_argument("--length", type=positive)
    parser.add_argument(
        "--judge", default="none", help="none, digits, or a causal LM (folder or id)"
    )
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--device")
    add_seed(parser)


def run(args: argparse.Namespace) -> int:
    """Measure, print and write."""
    pipe = load_pipeline(args.model).to(pick_device(args.device))
    pipe.scheduler = type(pipe.scheduler).from_config(
        pipe.scheduler.config, temperature=args.temperature
    )
    pipe.set_progress_bar_config(disable=True)
    judge, real = _judge(args.judge, pipe)
    sampler = partial(draw, pipe, seed=args.seed, batch_size=args.batch_size, length=args.length)
    rows = [{"model": "real", "nfe": 0, **real}] if real else []
    measured = nfe_frontier(sampler, args.nfe, args.samples, judge)
    rows += [{"model": args.model, **row, "seed": args.seed} for row in measured]
    print_table(rows)
    write_json(args.json, {"rows": rows})
    return 0


def draw(
    pipe: DiscreteDiffusionPipeline,
    nfe: int,
    count: int,
    *,
    seed: int,
    batch_size: int,
    length: int | None = None,
) -> Tensor:
    """(count, L) tokens in `nfe` network calls, in batches; as many of each class as of others."""
    generator = torch.Generator().manual_seed(seed)
    classes = getattr(pipe.model.config, "num_classes", 0)
    parts = []
    for start in range(0, count, batch_size):
        size = min(batch_size, count - start)
        out = pipe(
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
    name: str, pipe: DiscreteDiffusionPipeline
) -> tuple[Callable[[Tensor], Mapping[str, float]], Mapping[str, float]]:
    """The judge, and its figures of real data where it knows some."""
    if name == "none":
        return _diversity, {}
    if name == "digits":
        noise = pipe.scheduler.diffusion.process.noise_tokens
        levels = pipe.scheduler.diffusion.vocab_size - len(noise)
        real = split_digits(*load_digit_tokens(levels)).train_tokens
        judge = DigitsJudge.fit(levels)
        generator = torch.Generator().manual_seed(0)
        return partial(_digits, judge, real), judge_real(judge, real, generator=generator)
    if pipe.tokenizer is None:
        raise ValueError("A causal LM judges text, but this model has no tokenizer.")
    metric = GenerativePerplexity(
        model=AutoModelForCausalLM.from_pretrained(name),
        tokenizer=AutoTokenizer.from_pretrained(name),
    )
    return partial(_text, metric, pipe), {}


def _digits(judge: DigitsJudge, real: Tensor, tokens: Tensor) -> dict[str, float]:
    return judge_samples(judge, tokens, real)


def _diversity(tokens: Tensor) -> dict[str, float]:
    return {
        "entropy": token_entropy(tokens),
        "corpus_entropy": corpus_entropy(tokens),
        "unique": unique_fraction(tokens),
    }


def _text(
    metric: GenerativePerplexity, pipe: DiscreteDiffusionPipeline, tokens: Tensor
) -> dict[str, float]:
    texts = pipe.tokenizer.batch_decode(tokens, skip_special_tokens=True)
    return {**_diversity(tokens), **metric.compute(predictions=texts)}
