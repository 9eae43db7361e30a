"""What commands write, asked about before they work: files by option, and the flag for old ones."""

from __future__ import annotations

import argparse
from pathlib import Path

from hf_ddistill.outputs import check_file, recover

FILES = ("json", "plot", "image")


def add_overwrite(command: argparse.ArgumentParser) -> None:
    """--overwrite, for a command with an option that names what it writes."""
    if {"output", *FILES} & {action.dest for action in command._actions}:
        command.add_argument(
            "--overwrite",
            action="store_true",
            help="replace what hf_ddistill wrote there before, and nothing else",
        )


def check_outputs(args: argparse.Namespace) -> None:
    """Raise before any work if a file that the command would write is there.

    Model folders that a killed writing left between two states are brought back to the first.
    """
    for name in FILES:
        if getattr(args, name, None) is not None:
            check_file(f"--{name}", getattr(args, name), args.overwrite)
    for name in ("model", "teacher", "student", "init", "folder"):
        given = getattr(args, name, None)
        for folder in given if isinstance(given, list) else [given]:
            if isinstance(folder, str) and Path(folder).is_dir():
                recover(folder)
