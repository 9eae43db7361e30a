"""Data that a teacher draws itself: distillation without a data set."""

from __future__ import annotations

from typing import Any

import torch
from datasets import Dataset
from torch import nn

from hf_ddistill.denoisers import Denoiser
from hf_ddistill.linalg.keyed_noise import keyed_generator
from hf_ddistill.models import as_denoiser, unwrapped, window
from hf_ddistill.training.samples import draw_samples


@torch.no_grad()
def bootstrapped(
    teacher: nn.Module | Denoiser,
    count: int,
    num_steps: int,
    *,
    length: int | None = None,
    batch_size: int = 64,
    seed: int = 0,
) -> Dataset:
    """Rows with the `input_ids` of samples of the teacher, and their `class_labels` (in turn) where
    it has classes: the `train_dataset` of any objective.

    What the teacher never draws its student never sees: errors of the teacher's sampler at so many
    calls become the data's.

    References: Gu et al., BOOT: Data-free Distillation of Denoising Diffusion Models with
    Bootstrapping, 2023, arXiv:2306.05544.

    Args:
        teacher: a model, or a denoiser of some (`Guided`, ...); its sampler is the first model's.
        count: of the rows.
        num_steps: network calls for each.
        length: tokens of a row; the model's window if not given.
        batch_size: rows of a call.
        seed: of the draws.

    Raises:
        ValueError: for no rows, or a teacher that is no model.
    """
    denoiser = as_denoiser(teacher) if isinstance(teacher, nn.Module) else teacher
    if count < 1 or not denoiser.networks():
        raise ValueError(
            f"Rows are drawn by a model, at least one, got {count} of {denoiser.description}."
        )
    model = unwrapped(denoiser.networks()[0])
    shape = (count, length or window(model))
    device = next(model.parameters()).device
    generator = keyed_generator(seed, "bootstrap", device=device)
    rows: dict[str, Any] = {
        "input_ids": draw_samples(denoiser, shape, num_steps, batch_size, generator).tolist()
    }
    if classes := getattr(model.config, "num_classes", 0):
        rows["class_labels"] = [number % classes for number in range(count)]
    return Dataset.from_dict(rows)
