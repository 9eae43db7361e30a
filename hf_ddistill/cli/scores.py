"""The part of `hf-ddistill evaluate` that scores given data, in place of samples."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from hf_ddistill.cli.held_out import batches_of, block_of, held_out_bound
from hf_ddistill.cli.options.evaluate import EvaluateOptions
from hf_ddistill.evaluation import any_order_log_probability, mutation_scores
from hf_ddistill.evaluation.likelihood import scored
from hf_ddistill.models import as_denoiser, unwrapped
from hf_ddistill.pipelines import DiscreteDiffusionPipeline
from hf_ddistill.pipelines.prompts import read


def score_rows(pipe: DiscreteDiffusionPipeline, options: EvaluateOptions) -> list[dict[str, Any]]:
    """Rows of `--bound`, `--orders` or `--mutations`, whichever was asked for; empty for none."""
    named = {"model": options.model}
    if options.bound:
        bound = held_out_bound(pipe, options)
        row = {"nelbo": bound.nats, "standard_error": bound.standard_error}
        row |= {"bits_per_token": bound.bits, "perplexity": bound.perplexity}
        return [named | row | {"tokens": bound.tokens, "rows": bound.rows, "draws": options.draws}]
    if options.orders is not None:
        return [named | row for row in _by_orders(pipe, options)]
    if options.mutations is not None:
        return [named | row for row in _mutations(pipe, options)]
    return []


def _by_orders(
    pipe: DiscreteDiffusionPipeline, options: EvaluateOptions
) -> Iterator[dict[str, Any]]:
    denoiser = as_denoiser(unwrapped(pipe.model))
    generator = torch.Generator().manual_seed(options.seed)
    number = 0
    for batch in batches_of(pipe, options, denoiser):
        x_0, real, condition = scored(batch)
        about = {"orders": options.orders, "real": real, "block_size": block_of(pipe)}
        scores = any_order_log_probability(denoiser, x_0, **about, generator=generator, **condition)
        for row in range(scores.shape[1]):
            own, tokens = scores[:, row], int(real[row].sum())
            yield {
                "row": number,
                "tokens": tokens,
                "orders": options.orders,
                "log_probability": float(own.mean()),
                "over_orders": float(own.std()) if len(own) > 1 else 0.0,
                "nats_per_token": -float(own.mean()) / max(tokens, 1),
            }
            number += 1


def _mutations(
    pipe: DiscreteDiffusionPipeline, options: EvaluateOptions
) -> Iterator[dict[str, Any]]:
    """The ones with a number, the best first."""
    sequence = options.mutations
    if pipe.tokenizer is None:
        raise ValueError("--mutations is of a model with a tokenizer, and there is none.")
    if block_of(pipe) is not None:
        raise ValueError(
            f"--mutations is of a token given all others, and {options.model} sees none behind its "
            "block; use --orders."
        )
    found = read(pipe.tokenizer, [sequence], return_special_tokens_mask=True)
    ids = torch.tensor(found["input_ids"][0], device=pipe.model.device)
    real = ~torch.tensor(found["special_tokens_mask"][0], device=ids.device).bool()
    if not bool(real.any()):
        raise ValueError(f"--mutations: {sequence!r} has no token that could change.")
    generator = torch.Generator().manual_seed(options.seed)
    denoiser = as_denoiser(unwrapped(pipe.model))
    scores = mutation_scores(denoiser, ids, real=real, generator=generator)
    scores[:, pipe.tokenizer.all_special_ids] = torch.nan
    scores[torch.arange(len(ids)), ids] = torch.nan
    known, places = scores.isfinite(), torch.cumsum(real, 0)
    names = pipe.tokenizer.convert_ids_to_tokens
    found = sorted(known.nonzero().tolist(), key=lambda at: -float(scores[tuple(at)]))
    for position, token in found:
        yield {
            "position": int(places[position]),
            "from": names(int(ids[position])),
            "to": names(token),
            "score": float(scores[position, token]),
        }
