"""Some rows of a batch: their generators, and their inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from hf_ddistill.linalg import RowStreams
from hf_ddistill.shapes import Generators


def generators_of(generator: Generators, rows: Tensor) -> Generators:
    """Those of rows (N,), given by their numbers; a row may come several times."""
    if isinstance(generator, RowStreams):
        return generator.of(rows)
    if isinstance(generator, Sequence):
        return [generator[row] for row in rows.tolist()]
    return generator


def inputs_of(condition: Mapping[str, Any], rows: Tensor, total: int) -> dict[str, Any]:
    """The inputs of a denoiser for rows (N,) of `total`: what has an entry for each, and the rest
    as it is."""

    def part(value: Any) -> Any:
        of_rows = isinstance(value, Tensor) and value.shape[:1] == (total,)
        return value[rows.to(value.device)] if of_rows else value

    return {name: part(value) for name, value in condition.items()}
