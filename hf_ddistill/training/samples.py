"""Samples drawn while a model trains."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hf_ddistill.denoisers import Denoiser
from hf_ddistill.models import sampler_of, unwrapped
from hf_ddistill.models.held import blank_canvas


def draw_samples(
    denoiser: Denoiser,
    shape: Sequence[int],
    num_steps: int,
    batch_size: int,
    generator: torch.Generator,
) -> Tensor:
    """Clean tokens of `shape` (N, L), on the CPU, by the model's own sampler, with the classes in
    turn where there are any.

    A model with a noise input is given new noise in each call.

    Args:
        denoiser: of a model (`as_denoiser`), which is put in eval mode meanwhile.
        num_steps: network calls per sample.
        batch_size: rows in each call.
        generator: its device is that of the model.
    """
    model = unwrapped(denoiser.networks()[0])
    count, length = shape
    classes, training = getattr(model.config, "num_classes", 0), model.training
    model.eval()
    sampler = sampler_of(model)
    batches = []
    for rows in torch.arange(count, device=generator.device).split(batch_size):
        canvas = blank_canvas(model.config, (len(rows), length), generator.device)
        condition = {"class_labels": rows % classes} if classes else {}
        batches.append(sampler.sample(denoiser, canvas, num_steps, generator, **condition))
    model.train(training)
    return torch.cat(batches).cpu()


def write_samples(
    folder: str | Path,
    samples: Tensor,
    about: dict[str, Any],
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> None:
    """Write the first samples to `folder/STEP.json`, as text where there is a tokenizer."""
    shown: list[Any] = samples[:16].tolist()
    if hasattr(tokenizer, "batch_decode"):
        shown = tokenizer.batch_decode(shown)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{about['step']}.json").write_text(json.dumps({**about, "samples": shown}))
