"""`hf-ddistill sample`: draw from a model."""

from __future__ import annotations

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
from hf_ddistill.hub import load_pipeline
from hf_ddistill.models import BlockDiffusionLM, unwrapped
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
    pipe = open_pipeline(options.model, device, options.sampler, options.temperature)
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
    if isinstance(unwrapped(pipe.model), BlockDiffusionLM):
        _check_blocks(options)
        given = decoding(pipe, options, options.unmasking, options.steps_per_block)
    else:
        _check_no_blocks(options)
        use_unmasking(pipe, options.sampler, options.unmasking)
        given = {
            "length": options.length,
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
    rows = [{"tokens": tokens} for tokens in out.sequences.tolist()]
    for i, row in enumerate(rows):
        if out.texts is not None:
            row["text"] = out.texts[i]
        if not options.image:
            print(row.get("text", row["tokens"]))
    if options.image:
        save_grid(Path(options.image), out.images)
        print(f"{len(rows)} samples are in {options.image}.")
    write_json(options.json, {"nfe": out.num_network_calls, "rows": rows})
    return 0


def open_pipeline(
    name: str, device: torch.device, sampler: str | None, temperature: float | None
) -> DiscreteDiffusionPipeline:
    """A pipeline with the sampler that was saved, but for what is given."""
    pipe = load_pipeline(name).to(device)
    pipe.set_progress_bar_config(disable=not is_terminal())
    if isinstance(unwrapped(pipe.model), BlockDiffusionLM):
        if sampler is not None:
            raise ValueError(f"--sampler: not for {name}, which decodes by blocks (--unmasking).")
        return pipe
    kind, own = type(pipe.scheduler), {}
    if sampler is not None:
        kind, own = scheduler_for(member(Sampler, "--sampler", sampler))
    own |= {} if temperature is None else {"temperature": temperature}
    pipe.scheduler = kind.from_config(pipe.scheduler.config, **own)
    return pipe


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
    for name in ("steps", "length", "class_label", "guidance", "image"):
        if getattr(options, name) is not None:
            raise ValueError(
                f"{flag_name(name)}: not for {options.model}, which decodes behind a prompt."
            )


def _check_no_blocks(options: SampleOptions) -> None:
    """Raise for options of block-diffusion models alone."""
    for name in ("max_new_tokens", "steps_per_block"):
        if getattr(options, name) is not None:
            raise ValueError(
                f"{flag_name(name)}: of block-diffusion models, and {options.model} is none."
            )
