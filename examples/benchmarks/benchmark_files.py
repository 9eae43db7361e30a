"""The files that benchmarks are given, told by argparse before any work is done."""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def rows_file(text: str) -> Path:
    """Where the rows go: a file that can be written and is not another's.

    Raises:
        argparse.ArgumentTypeError: for a folder, for one in a folder that does not exist, and for a
        file that is there and holds no JSON mapping, which rows of a benchmark are.
    """
    file = Path(text)
    if file.is_dir():
        raise argparse.ArgumentTypeError(f"names {file}, which is a folder; give a file")
    if not file.parent.is_dir():
        raise argparse.ArgumentTypeError(f"cannot write {file}: there is no folder {file.parent}")
    if file.exists():
        try:
            rows = json.loads(file.read_text())
        except (OSError, ValueError):
            rows = None
        if not isinstance(rows, dict):
            raise argparse.ArgumentTypeError(
                f"names {file}, which is there and holds no rows of a benchmark; give another name"
            )
    return file


def given_file(text: str) -> Path:
    """What is read: a file that is there.

    Raises:
        argparse.ArgumentTypeError: for anything else.
    """
    file = Path(text)
    if not file.is_file():
        raise argparse.ArgumentTypeError(f"names {file}, and there is no such file")
    return file
