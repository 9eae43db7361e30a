"""Rows of a trainer's data that are looked at beside its steps."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any

from torch import Tensor


def rows_of(trainer: Any, most: int) -> list[Any]:
    """At most so many rows, from everywhere in the data (those held out where there are any); of a
    stream the first ones."""
    data = trainer.train_dataset if trainer.eval_dataset is None else trainer.eval_dataset
    data = next(iter(data.values())) if isinstance(data, Mapping) else data
    if not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
        return list(islice(iter(data), most))
    count = min(most, len(data))
    return [data[i * len(data) // count] for i in range(count)]


def batches_of(trainer: Any, rows: list[Any], size: int) -> tuple[Mapping[str, Tensor], ...]:
    """Batches of so many of these rows, where the trainer computes."""
    parts = [rows[i : i + size] for i in range(0, len(rows), size)]
    return tuple(trainer._prepare_inputs(trainer.data_collator(part)) for part in parts)
