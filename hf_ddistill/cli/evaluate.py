"""`hf-ddistill evaluate`: quality and diversity of samples against network calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from hf_ddistill.cli.common import (
    pick_device,
    print_table,
    write_json,
)
from hf_ddistill.cli.data import load
from hf_ddistill.cli.evaluate_blocks import block_rows
from hf_ddistill.cli.held_out import held_out_bound
from hf_ddistill.cli.members import member
from hf_ddistill.cli.options.evaluate import EvaluateOptions
from hf_ddistill.cli.options.option import flag_name
from hf_ddistill.cli.sample import decodes, open_pipeline, use_unmasking
from hf_ddistill.cli.scores import score_rows
from hf_ddistill.evaluation import DiversityJudge, Judge, Source, nfe_frontier
from hf_ddistill.models import unwrapped
from hf_ddistill.pipelines import DiscreteDiffusionPipeline

NFE = (1, 2, 4, 8)
#: Scores of given data that are printed; --json has all of them.
SHOWN = 40


def run(options: EvaluateOptions) -> int:
    """Measure, print and write."""
    device = pick_device(options.device)
    how = {"random_tokens": options.random_tokens}
    pipe = open_pipeline(options.model, device, options.sampler, options.temperature, **how)
    pipe.set_progress_bar_config(disable=True)
    of_blocks = decodes(pipe, options, ("nfe", "length", "sampler"))
    _check(options, of_blocks)
    if scores := score_rows(pipe, options):
        print_table(scores[:SHOWN])
        if len(scores) > SHOWN:
            print(f"The first {SHOWN} of {len(scores):,} rows; --json FILE writes all.")
        write_json(options.json, {"rows": scores})
        return 0
    judge = _judge(options.judge)
    judge = judge.suited_to(_source(pipe, judge, options))
    real, figures = judge.real(options.samples), partial(judged, judge, pipe)
    bound = {} if options.data is None else {"nelbo": held_out_bound(pipe, options).nats}
    rows = [{"model": "real", "nfe": 0, **real}] if real else []
    if of_blocks:
        measured = list(block_rows(pipe, options, figures))
    else:
        measured = list(_frontier(pipe, options, figures))
    rows += [{"model": options.model, **row, **bound, "seed": options.seed} for row in measured]
    print_table(rows)
    write_json(options.json, {"rows": rows})
    return 0


def _frontier(
    pipe: DiscreteDiffusionPipeline, options: EvaluateOptions, figures: Callable[..., Any]
) -> Iterator[dict[str, Any]]:
    """A row for each number of calls, by the pipeline's sampler or by each unmasking rule."""
    sampler = partial(
        draw,
        pipe,
        seed=options.seed,
        batch_size=options.batch_size,
        length=options.length,
        prompt=options.prompt,
    )
    for rule in options.unmasking or [None]:
        use_unmasking(pipe, options.sampler, rule)
        for row in nfe_frontier(sampler, options.nfe or list(NFE), options.samples, figures):
            yield row if rule is None else {"unmasking": rule, **row}


def _check(options: EvaluateOptions, of_blocks: bool) -> None:
    """Raise for options that the model has no use for."""
    others = ("nfe", "length") if of_blocks else ("max_new_tokens", "steps_per_block")
    for name in others:
        if getattr(options, name) is not None:
            why = "it decodes by blocks" if of_blocks else "it does not decode by blocks"
            raise ValueError(f"{flag_name(name)}: not for {options.model}; {why}.")


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


def _source(pipe: DiscreteDiffusionPipeline, judge: Judge, options: EvaluateOptions) -> Source:
    """What the judge may know of the model, and the data where it needs some."""
    diffusion = pipe.scheduler.diffusion
    shape = getattr(unwrapped(pipe.model).config, "token_shape", None)
    real = None
    if judge.needs_real and options.data is not None:
        data = load(options.data, options.split)
        if "input_ids" not in data.column_names:
            raise ValueError(
                f"--judge {judge.id} takes rows of input_ids, which {options.data} lacks."
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
