"""The part of `hf-ddistill evaluate` for block-diffusion models: sampled by their own decoder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from hf_ddistill.cli.members import member, name_or_json
from hf_ddistill.cli.options.evaluate import EvaluateOptions
from hf_ddistill.cli.sample import decoding
from hf_ddistill.models import unwrapped
from hf_ddistill.pipelines import DiscreteDiffusionPipeline
from hf_ddistill.unmasking import Unmasking

Figures = Callable[[Tensor, Tensor], Mapping[str, Any]]


def block_rows(
    pipe: DiscreteDiffusionPipeline, options: EvaluateOptions, figures: Figures
) -> Iterator[dict[str, Any]]:
    """A row for each way of decoding: calls per sample, tokens per call, and the judge's figures.

    Args:
        pipe: around a `BlockDiffusionLM`.
        options: of the command; `unmasking` and `steps_per_block` list the ways.
        figures: of the new tokens (N, M) and where there are some (N, M).
    """
    rules = options.unmasking or (["static"] if options.steps_per_block else [None])
    for rule in rules:
        if rule is not None:
            member(Unmasking, "--unmasking", rule)
    for rule in rules:
        for steps in options.steps_per_block or [None]:
            yield _row(pipe, options, figures, rule, steps)


def _row(
    pipe: DiscreteDiffusionPipeline,
    options: EvaluateOptions,
    figures: Figures,
    rule: str | None,
    steps: int | None,
) -> dict[str, Any]:
    settings = decoding(pipe, options, rule, steps)
    new, generator = settings["max_new_tokens"], torch.Generator().manual_seed(options.seed)
    tokens, where, calls, drawn = [], [], [], []
    for start in range(0, options.samples, options.batch_size):
        size = min(options.batch_size, options.samples - start)
        out = pipe(
            options.prompt, batch_size=size, generator=generator, output_type="tokens", **settings
        )
        count = (out.tokens_per_call.cpu() * out.calls.cpu()).round().long()
        tokens.append(out.sequences.cpu()[:, -new:])
        where.append(torch.arange(tokens[-1].shape[1]) < count[:, None])
        calls.append(out.calls.cpu())
        drawn.append(count)
    calls, drawn = torch.cat(calls).double(), torch.cat(drawn).double()
    own = unwrapped(pipe.model).generation_config.unmasking or "threshold"
    shown = own if rule is None else name_or_json("--unmasking", rule)
    return {
        "nfe": round(float(calls.mean()), 4),
        "tokens_per_call": float(drawn.sum() / calls.sum()),
        "unmasking": shown if isinstance(shown, str) else json.dumps(shown),
        **({} if steps is None else {"steps_per_block": steps}),
        **figures(torch.cat(tokens), torch.cat(where)),
    }
