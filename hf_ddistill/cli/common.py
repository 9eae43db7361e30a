"""What several commands read and write: data sets, JSON rows, processes."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, load_dataset

from hf_ddistill.diffusion import Diffusion
from hf_ddistill.evaluation.digits_judge import load_digit_tokens
from hf_ddistill.outputs import writing_file
from hf_ddistill.processes import Process
from hf_ddistill.schedules import Schedule


def write_json(file: str | Path | None, payload: Mapping[str, Any]) -> None:
    """Write JSON in one piece: a reader never sees half of it. Nothing is done without a file."""
    if file is None:
        return
    with writing_file(file) as draft:
        draft.write_text(json.dumps(payload, indent=1) + "\n")


def add_data(parser: argparse.ArgumentParser) -> None:
    """The options that name a data set."""
    parser.add_argument(
        "--data",
        required=True,
        help="digits, digits:LEVELS, a .txt, .parquet, .jsonl or .csv file, or a data set's Hub id",
    )
    parser.add_argument("--split", default="train", help="of a data set (default train)")
    parser.add_argument("--streaming", action="store_true", help="read the data as a stream")


def load_data(args: argparse.Namespace) -> Any:
    """Rows with `input_ids` or `text`."""
    name = args.data
    if name.split(":")[0] == "digits":
        levels = int(name.partition(":")[2] or 2)
        tokens, labels = load_digit_tokens(levels)
        return Dataset.from_dict({"input_ids": tokens.tolist(), "label": labels.tolist()})
    kinds = {".txt": "text", ".parquet": "parquet", ".jsonl": "json", ".csv": "csv"}
    suffix = Path(name).suffix
    if suffix in kinds:
        if not Path(name).is_file():
            raise ValueError(f"--data names {name}, which is not a file.")
        if Path(name).stat().st_size == 0:
            raise ValueError(f"The data set {name} is empty; at least one row is needed.")
        return load_dataset(kinds[suffix], data_files=name, split="train", streaming=args.streaming)
    return load_dataset(name, split=args.split, streaming=args.streaming)


def without_labels(data: Any) -> Any:
    """The data without classes, which a model that has none does not take."""
    labels = [c for c in ("label", "class_labels") if c in (data.column_names or [])]
    return data.remove_columns(labels) if labels else data


def add_seed(parser: argparse.ArgumentParser) -> None:
    """--seed and --json, which every command that measures has."""
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", metavar="FILE", help="write the figures as rows of JSON")


def add_diffusion(parser: argparse.ArgumentParser) -> None:
    """The options that name a process and a schedule."""
    parser.add_argument("--process", default="absorbing", help="id of a process (hf-ddistill list)")
    parser.add_argument("--schedule", default="log_linear", help="id of a schedule")


def name_or_json(option: str, text: str) -> str | dict[str, Any]:
    """An id as it is, or JSON that starts with a brace as a mapping."""
    if not text.startswith("{"):
        return text
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{option} takes an id or JSON; {text!r} is no JSON: {error}.") from error


def build_diffusion(process: str, schedule: str, vocab_size: int) -> Diffusion:
    """A diffusion over `vocab_size` tokens from two ids, or from JSON configurations."""
    config = name_or_json("--process", process)
    config = {"type": config} if isinstance(config, str) else config
    Process.named(config.get("type"))
    if config["type"] not in ("general", "kronecker", "low_rank"):
        config.setdefault("vocab_size", vocab_size)
    elif len(config) == 1:
        raise ValueError(f'{process} needs its matrices: give it as JSON, {{"type": ...}}.')
    pace = name_or_json("--schedule", schedule)
    return Diffusion(Process.from_config(config), Schedule.from_config(pace))


def positive(text: str) -> int:
    """An argument that is an integer of at least 1."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be an integer, got {text!r}") from None
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Flat rows as aligned columns on stdout."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    cells = [keys] + [[_cell(row.get(key, "")) for key in keys] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(keys))]
    for line in cells:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def pick_device(name: str | None) -> torch.device:
    """The device that was named, or the first accelerator, or the CPU."""
    if name is not None:
        return torch.device(name)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
