"""What several commands take and write: common options, JSON rows, tables."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from hf_ddistill.cli.values import SEED, device_name, json_file, setting, whole
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


def add_seed(parser: argparse.ArgumentParser) -> None:
    """--seed and --json, which every command that measures has."""
    parser.add_argument("--seed", type=SEED, default=0, help="of all draws")
    add_json(parser)


def add_json(parser: argparse.ArgumentParser, what: str = "the figures") -> None:
    """--json."""
    parser.add_argument(
        "--json", type=json_file, metavar="FILE", help=f"write {what} as rows of JSON"
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    """--device."""
    parser.add_argument(
        "--device",
        type=device_name,
        help="cpu, cuda:0, ... (default: the accelerator, if there is one)",
    )


def add_diffusion(parser: argparse.ArgumentParser) -> None:
    """The options that name a process and a schedule."""
    parser.add_argument(
        "--process", type=setting, default="absorbing", help="an id (hf-ddistill list), or JSON"
    )
    parser.add_argument("--schedule", type=setting, default="log_linear", help="an id, or JSON")


#: The type of an option that is an integer of at least 1.
positive = whole(1)


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Flat rows as aligned columns on stdout."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    cells = [keys] + [[_cell(row.get(key, "")) for key in keys] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(keys))]
    for line in cells:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def pick_device(given: torch.device | None) -> torch.device:
    """The device that was named, or the first accelerator, or the CPU."""
    if given is not None:
        return given
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
