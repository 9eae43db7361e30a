"""Checkpoint folders: which of them were written to their end, and which are left in the end.

A checkpoint is whole if it has a marker, which is written last and says what was written: the size
and the CRC-32 of each file. Nothing but what a marker names is ever removed.
"""

from __future__ import annotations

import contextlib
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

MARKER_NAME = "whole.json"
_FOLDER = re.compile(r"checkpoint-(\d+)")


def step_of(checkpoint: str | Path) -> int:
    """The optimizer step that a checkpoint's name gives; -1 if it is not named like one."""
    named = _FOLDER.fullmatch(Path(checkpoint).name)
    return int(named[1]) if named else -1


def checkpoints_in(folder: str | Path) -> list[Path]:
    """The checkpoints in a folder, the last one first; none if there is no such folder."""
    inside = Path(folder).iterdir() if Path(folder).is_dir() else ()
    found = [path for path in inside if path.is_dir() and step_of(path) >= 0]
    return sorted(found, key=step_of, reverse=True)


def begin(checkpoint: Path) -> dict[Path, int]:
    """Call a checkpoint unfinished that is to be written; gives what is there, for `finish`."""
    (checkpoint / MARKER_NAME).unlink(missing_ok=True)
    return {file: file.stat().st_mtime_ns for file in _files(checkpoint)}


@contextlib.contextmanager
def told(folder: Path) -> Iterator[None]:
    """Within it, what torch and safetensors raise for a full disk is an `OSError` in a sentence."""
    try:
        yield
    except (RuntimeError, SafetensorError) as error:
        if isinstance(error, SafetensorError) or "inline_container" in str(error):
            said = str(error).strip().splitlines()[0]
            raise OSError(f"The checkpoint {folder} could not be written: {said}") from error
        raise


def finish(checkpoint: Path, before: dict[Path, int], resumable: bool) -> None:
    """Write the marker over all files that were written since `begin`.

    Args:
        checkpoint: the folder.
        before: what `begin` gave.
        resumable: whether a run can go on from it (it has the optimizer's state).
    """
    written = [file for file in _files(checkpoint) if before.get(file) != file.stat().st_mtime_ns]
    about = {str(file.relative_to(checkpoint)): _size_and_crc(file) for file in written}
    draft = checkpoint / f"{MARKER_NAME}.part"
    draft.write_text(json.dumps({"files": about, "resumable": resumable}, indent=1) + "\n")
    draft.replace(checkpoint / MARKER_NAME)


def damage(checkpoint: str | Path) -> str | None:
    """What is wrong with a checkpoint, as a clause that names the file; None if it is whole."""
    checkpoint = Path(checkpoint)
    if not checkpoint.is_dir():
        return "it is no folder"
    if not (checkpoint / MARKER_NAME).is_file():
        return f"{MARKER_NAME} is missing, so it was not written to its end"
    marker = _marker(checkpoint)
    if marker is None:
        return f"{MARKER_NAME} cannot be read"
    for name, size_and_crc in marker["files"].items():
        if not (checkpoint / name).is_file():
            return f"{name} is missing"
        if _size_and_crc(checkpoint / name) != size_and_crc:
            return f"{name} is not what was written"
    if not marker["resumable"]:
        return "it was saved without the optimizer's state (save_only_model)"
    return None


def remove(checkpoint: Path) -> None:
    """Remove what a marker says was written, and the folder unless something else is in it."""
    marker = _marker(checkpoint)
    # First, so that a removal that is cut short leaves none that looks whole.
    (checkpoint / MARKER_NAME).unlink()
    for name in marker["files"]:
        (checkpoint / name).unlink(missing_ok=True)
    folders = [path for path in checkpoint.rglob("*") if path.is_dir() and not path.is_symlink()]
    for folder in [*sorted(folders, key=lambda path: len(path.parts), reverse=True), checkpoint]:
        if not any(folder.iterdir()):
            folder.rmdir()


def has_marker(checkpoint: Path) -> bool:
    """Whether it was written to its end, whatever became of it."""
    return _marker(checkpoint) is not None


def _marker(checkpoint: Path) -> dict[str, Any] | None:
    """What the marker says; None without one that can be read, or that names files elsewhere."""
    try:
        marker = json.loads((checkpoint / MARKER_NAME).read_text())
        files, resumable = dict(marker["files"]), bool(marker["resumable"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    inside = all(not Path(name).is_absolute() and ".." not in Path(name).parts for name in files)
    return {"files": files, "resumable": resumable} if inside else None


def _files(checkpoint: Path) -> list[Path]:
    return sorted(path for path in checkpoint.rglob("*") if path.is_file())


def _size_and_crc(file: Path) -> list[int]:
    crc, size = 0, 0
    with file.open("rb") as handle:
        while piece := handle.read(1 << 20):
            crc, size = zlib.crc32(piece, crc), size + len(piece)
    return [size, crc]
