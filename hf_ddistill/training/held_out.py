"""An evaluation's loss: a mean over all held-out tokens, whatever batches they come in."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from hf_ddistill.linalg import RowStreams
from hf_ddistill.linalg.keyed_noise import keyed_generator
from hf_ddistill.shapes import Generators
from hf_ddistill.training.clean_tokens import real_of

#: The key of a step on held-out data, in the place of an optimizer step and a micro step.
EVALUATION = "evaluation"


def row_streams(seed: int, inputs: Mapping[str, Tensor], *key: str, copies: int = 1) -> RowStreams:
    """Noise for each row of a batch that hangs on its own tokens (and class) alone.

    Args:
        seed: of the run.
        inputs: `input_ids` (B, L), perhaps `attention_mask` (B, L) and `class_labels` (B,).
        key: what the noise is for.
        copies: rows that are made of each one, each with noise of its own.
    """
    ids, real = inputs["input_ids"].cpu(), real_of(inputs)
    real = torch.ones_like(ids, dtype=torch.bool) if real is None else real.cpu()
    classes = inputs.get("class_labels")
    names = [""] * len(ids) if classes is None else [str(label) for label in classes.tolist()]
    seeds = []
    for row, kept, name in zip(ids, real, names, strict=True):
        tokens = row[kept].numpy().tobytes()
        for copy in range(copies):
            about = "/".join(map(str, (seed, *key, name, copy))).encode()
            digest = hashlib.blake2b(tokens, digest_size=8, key=hashlib.sha256(about).digest())
            seeds.append(int.from_bytes(digest.digest(), "big") >> 1)
    return RowStreams(seeds)


def step_noise(
    seed: int, inputs: Mapping[str, Tensor], key: tuple[Any, ...], process: int, copies: int = 1
) -> Generators:
    """Keyed by (seed, key, process); on held-out data by each row, whatever its process: a run's
    evaluations have the same noise, in batches of any size."""
    if key[:1] == (EVALUATION,):
        return row_streams(seed, inputs, *key, copies=copies)
    return keyed_generator(seed, *key, process, device=inputs["input_ids"].device)


def units_of(lengths: Tensor, unit: str) -> Tensor:
    """What a mean is over, int64 scalar: the tokens of rows of `lengths` (B,), or the rows that
    have any."""
    return lengths.sum() if unit == "token" else (lengths > 0).sum()


def own_rows(rows: int, accelerator: Accelerator) -> int:
    """How many of this process's rows are no repetition: the last batch is filled up with rows of
    the first ones, so that all processes have one of the same size."""
    state = accelerator.gradient_state
    if not state.end_of_dataloader or state.remainder <= 0:
        return rows
    return min(max(state.remainder - rows * accelerator.process_index, 0), rows)


class HeldOutMean:
    """The mean of losses of batches, each by its units."""

    def __init__(self) -> None:
        self._sums: Tensor | None = None

    def add(self, loss: Tensor, units: Tensor) -> None:
        """Enter the mean loss of a batch, and what it is a mean of."""
        sums = torch.stack([loss.detach().double() * units, units.double()])
        self._sums = sums if self._sums is None else self._sums + sums

    def into(self, metrics: dict[str, Any], name: str, accelerator: Accelerator) -> None:
        """Put the mean over all processes in the place of a metric, where it is one."""
        if self._sums is None or name not in metrics:
            return
        total, units = accelerator.reduce(self._sums, "sum").tolist()
        metrics[name] = total / units if units else 0.0
