"""What several commands write, and where they compute: JSON rows, tables, devices."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from hf_ddistill.outputs import writing_file


def write_json(file: str | Path | None, payload: Mapping[str, Any]) -> None:
    """Write JSON in one piece: a reader never sees half of it. Nothing is done without a file."""
    if file is None:
        return
    with writing_file(file) as draft:
        draft.write_text(as_json(payload))


def as_json(payload: Mapping[str, Any]) -> str:
    """JSON for people and `diff`: an entry a line, of a list of rows a row a line."""
    entries = []
    for key, value in payload.items():
        value = _strict(value)
        text = json.dumps(value, allow_nan=False)
        if isinstance(value, Sequence) and any(isinstance(item, Mapping) for item in value):
            text = "[\n  " + ",\n  ".join(json.dumps(item) for item in value) + "\n ]"
        entries.append(f" {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(entries) + "\n}\n"


def _strict(value: Any) -> Any:
    """The value with null for what JSON has no number for: a figure that there is not."""
    if isinstance(value, Mapping):
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Flat rows as aligned columns on stdout."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    cells = [keys] + [[_cell(row.get(key, "")) for key in keys] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(keys))]
    for line in cells:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    # A token may be a line break, or what moves the cursor.
    return said if (said := str(value)).isprintable() else repr(said)[1:-1]


def pick_device(given: str | None) -> torch.device:
    """The device that was named, or the first accelerator, or the CPU.

    Raises:
        ValueError: if this machine does not have it.
    """
    accelerator = torch.accelerator.current_accelerator()
    if given is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    there = ["cpu"]
    if accelerator is not None:
        count = torch.accelerator.device_count()
        there += [accelerator.type, *(f"{accelerator.type}:{i}" for i in range(count))]
    try:
        found = torch.device(given)
    except RuntimeError:
        raise ValueError(f"--device: knows no device {given!r}; there are {there}.") from None
    if given not in there and found.type != "cpu":
        raise ValueError(
            f"--device: this machine has no device {given!r}; there are {', '.join(there)}."
        )
    return found
