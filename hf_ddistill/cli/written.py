"""What commands write, asked about before they work: files by option."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hf_ddistill.cli.options.option import flag_name
from hf_ddistill.cli.values import TERMINAL
from hf_ddistill.outputs import check_file, recover

FILES = ("json", "as_data", "plot", "image", "show")


def check_outputs(args: Any) -> None:
    """Raise before any work if a file that the command would write is there.

    Model folders that a killed writing left between two states are brought back to the first.
    """
    for name in FILES:
        if getattr(args, name, None) not in (None, TERMINAL):
            check_file(flag_name(name), getattr(args, name), args.overwrite)
    for name in ("model", "teacher", "student", "drafter", "init", "folder"):
        given = getattr(args, name, None)
        for folder in given if isinstance(given, list | tuple) else [given]:
            if isinstance(folder, str) and Path(folder).is_dir():
                recover(folder)
