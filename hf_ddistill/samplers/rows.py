"""The inputs of some rows of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def inputs_of(condition: Mapping[str, Any], rows: Tensor, total: int) -> dict[str, Any]:
    """The inputs of a denoiser for rows (N,) of `total`: what has an entry for each, and the rest
    as it is."""

    def part(value: Any) -> Any:
        of_rows = isinstance(value, Tensor) and value.shape[:1] == (total,)
        return value[rows.to(value.device)] if of_rows else value

    return {name: part(value) for name, value in condition.items()}
