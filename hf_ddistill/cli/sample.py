"""`hf-ddistill sample`: draw from a model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from hf_ddistill.cli.common import pick_device, write_json
from hf_ddistill.cli.members import member, name_or_json
from hf_ddistill.cli.options.option import flag_name
from hf_ddistill.cli.options.sample import SampleOptions
from hf_ddistill.cli.plots import save_grid
from hf_ddistill.cli.show.shown import shown
from hf_ddistill.cli.terminal import is_terminal
from hf_ddistill.cli.tokens import name_mask
from hf_ddistill.hub import load_model, load_pipeline
from hf_ddistill.models import BlockDiffusionLM, unwrapped, window
from hf_ddistill.models.random_tokens import enter_random_tokens
from hf_ddistill.models.tokenizers import has_tokenizer, load_tokenizer
from hf_ddistill.outputs import writing_file
from hf_ddistill.pipelines import DiscreteDiffusionPipeline, Trace
from hf_ddistill.samplers import Sampler
from hf_ddistill.schedulers import scheduler_for
from hf_ddistill.unmasking import Unmasking

#: Of a block-diffusion model, where neither it nor the user says.
NEW_TOKENS = 64


def run(options: SampleOptions) -> int:
    """Sample and print."""
    if options.unmasking is not None:
        member(Unmasking, "--unmasking", options.unmasking)
    device = pick_device(options.device)
    how = {"temperature": options.temperature, "drafter": options.drafter}
    pipe = open_pipeline(options.model, device, options.sampler, **how)
    # One generator for each row: the first samples stay the same whatever the count.
    generators = [
        torch.Generator().manual_seed(options.seed * 100_003 + i) for i in range(options.count)
    ]
    trace, watching = Trace(), {}
    if options.show is not None:
        watching = {
            "callback_on_step_end": trace,
            "callback_on_step_end_tensor_inputs": trace.inputs,
        }
    if decodes(pipe, options, ("steps", "length", "sampler")):
        _check_blocks(options)
        given = decoding(pipe, options, options.unmasking, options.steps_per_block)
    else:
        _check_no_blocks(options)
        use_unmasking(pipe, options.sampler, options.unmasking)
        _check_drafter(pipe, options)
        given = {
            "length": options.length or window(unwrapped(pipe.model)),
            "num_inference_steps": options.steps,
            "class_labels": options.class_label,
            "guidance_scale": None if options.guidance is None else 1 + options.guidance,
            "output_type": "image" if options.image else None,
        }
        given = {key: value for key, value in given.items() if value is not None}
    given |= watching
    out = pipe(options.prompt, batch_size=options.count, generator=generators, **given)
    if options.show is not None:
        shown(pipe, trace, options.show)
    told = {"nfe": out.num_network_calls}
    if out.num_drafter_calls is not None:
        told["drafter_calls"] = out.num_drafter_calls
    rows = [{"tokens": tokens} for tokens in out.sequences.tolist()]
    if out.calls is not None:
        for row, calls, tokens in zip(rows, out.calls, out.tokens_per_call, strict=True):
            row |= {"calls": int(calls), "tokens_per_call": round(float(tokens), 4)}
    for i, row in enumerate(rows):
        if out.texts is not None:
            row["text"] = out.texts[i]
        if not options.image:
            print(row.get("text", row["tokens"]))
    if options.image:
        save_grid(Path(options.image), out.images)
        print(f"{len(rows)} samples are in {options.image}.")
    if out.calls is not None:
        print(
            f"{float(out.tokens_per_call.mean()):.2f} tokens a call of the model, "
            f"{float(out.calls.double().mean()):.1f} calls a sample."
        )
    write_json(options.json, {**told, "rows": rows})
    _write_rows(options, out.sequences.tolist())
    return 0


def _write_rows(options: SampleOptions, sequences: list[list[int]]) -> None:
    """The samples as rows that `--data` reads."""
    if options.as_data is None:
        return
    label = {} if options.class_label is None else {"class_labels": options.class_label}
    with writing_file(options.as_data) as draft:
        draft.write_text(
            "".join(json.dumps({"input_ids": each, **label}) + "\n" for each in sequences)
        )
    print(f"{len(sequences)} rows are in {options.as_data}.")


def open_pipeline(
    name: str,
    device: torch.device,
    sampler: str | None,
    temperature: float | None,
    drafter: str | None = None,
    random_tokens: float | None = None,
) -> DiscreteDiffusionPipeline:
    """A pipeline with the sampler that was saved, but for what is given; a drafter that was saved
    is left out where the sampler takes no drafts."""
    if random_tokens is None:
        pipe = load_pipeline(name, drafter).to(device)
    else:
        pipe = _of_masked_lm(name, random_tokens).to(device)
    pipe.set_progress_bar_config(disable=not is_terminal())
    if sees_blocks(pipe):
        if sampler is not None:
            raise ValueError(f"--sampler: not for {name}, which decodes by blocks (--unmasking).")
        return pipe
    kind, own = type(pipe.scheduler), {}
    if sampler is not None:
        kind, own = scheduler_for(member(Sampler, "--sampler", sampler))
    own |= {} if temperature is None else {"temperature": temperature}
    pipe.scheduler = kind.from_config(pipe.scheduler.config, **own)
    if drafter is None and not pipe.scheduler.sampler.drafts:
        pipe.register_modules(drafter=None)
    return pipe


def _of_masked_lm(name: str, random_tokens: float) -> DiscreteDiffusionPipeline:
    """A pipeline of a masked language model, such a share of whose noise is random tokens."""
    model = load_model(name)
    tokenizer = load_tokenizer(name) if has_tokenizer(name) else None
    name_mask(model, tokenizer, None)
    enter_random_tokens(model, random_tokens)
    return DiscreteDiffusionPipeline.from_model(model, tokenizer=tokenizer)


def sees_blocks(pipe: DiscreteDiffusionPipeline) -> bool:
    """Whether a pipeline's model attends in blocks, and so can be sampled in no other way."""
    inner = unwrapped(pipe.model)
    return isinstance(inner, BlockDiffusionLM) and not inner.is_full(inner.config.block_size)


def decodes(pipe: DiscreteDiffusionPipeline, options: Any, at_once: Sequence[str]) -> bool:
    """Whether samples are decoded behind a prompt: by a block-diffusion model, unless its attention
    is full and one of the options `at_once` asks for all positions at once."""
    if not isinstance(unwrapped(pipe.model), BlockDiffusionLM):
        return False
    asked = any(getattr(options, name) is not None for name in at_once)
    return sees_blocks(pipe) or not asked


def use_unmasking(
    pipe: DiscreteDiffusionPipeline, sampler: str | None, unmasking: str | None
) -> None:
    """Let an unmasking rule, if one is given, choose what a pipeline's steps decide."""
    if unmasking is None:
        return
    if sampler is not None:
        raise ValueError("--unmasking is of the sampler 'unmasking': give no --sampler.")
    rule = {"type": "unmasking", "unmasking": name_or_json("--unmasking", unmasking)}
    kind, own = scheduler_for(rule)
    pipe.scheduler = kind.from_config(pipe.scheduler.config, **own)


def decoding(
    pipe: DiscreteDiffusionPipeline,
    options: SampleOptions,
    unmasking: str | None,
    steps_per_block: int | None,
) -> dict[str, Any]:
    """The settings of `generate` that are given; the model's own hold for all others."""
    own, temperature = unwrapped(pipe.model).generation_config, options.temperature
    given: dict[str, Any] = {
        "max_new_tokens": options.max_new_tokens or own.max_new_tokens or NEW_TOKENS
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


def _check_blocks(options: SampleOptions) -> None:
    """Raise for options that a block-diffusion model has no use for."""
    for name in ("steps", "length", "class_label", "guidance", "drafter", "image"):
        if getattr(options, name) is not None:
            raise ValueError(
                f"{flag_name(name)}: not for {options.model}, which decodes behind a prompt."
            )


def _check_drafter(pipe: DiscreteDiffusionPipeline, options: SampleOptions) -> None:
    """Raise for a drafter where the sampler that is named takes no drafts."""
    if options.drafter is not None and not pipe.scheduler.sampler.drafts:
        raise ValueError(
            f"--drafter: the sampler {pipe.scheduler.sampler.id!r} takes no drafts; leave "
            "--sampler and --unmasking out, or give --sampler speculative."
        )


def _check_no_blocks(options: SampleOptions) -> None:
    """Raise for options of decoding in blocks alone."""
    for name in ("max_new_tokens", "steps_per_block"):
        if getattr(options, name) is not None:
            raise ValueError(
                f"{flag_name(name)}: of decoding in blocks, and {options.model} draws all "
                "positions at once."
            )
    if options.guidance and options.class_label is None:
        raise ValueError("--guidance is by a class: give --class-label.")
