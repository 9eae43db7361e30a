"""The folder of the quickstart: whose it is, what is there while it runs, what is left in the end.

`running.json` is there from the start of a run to its end, and says with which settings it runs;
`teacher/` and `distillation/` hold its checkpoints. What it makes is moved in when all of it is
there.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hf_ddistill.outputs import Record, check_folder, remove_ours, writing
from hf_ddistill.outputs.record import NAME, relative_files
from hf_ddistill.outputs.rule import shown
from hf_ddistill.outputs.writing import free

RUNNING = "running.json"
#: What a run needs while it runs.
WORK = ("teacher", "distillation")
#: What it leaves, beside `students/`.
MADE = ("metrics.json", "samples.png", "frontier.png")


def begin(folder: Path, setup: Mapping[str, Any], overwrite: bool) -> None:
    """Go on with an unfinished run of the same settings, or start one in a new folder.

    With `overwrite`, work of earlier runs is in `replaced/` until the end; what they made stays
    where it is.

    Raises:
        ValueError: if the folder is not empty, and is not of an unfinished run of these settings.
    """
    now = json.loads(json.dumps(setup))
    folder = check_folder(
        folder,
        overwrite=overwrite,
        goes_on=_running(folder) == now,
        sources=(),
        makes=lambda path: path in MADE or path.partition("/")[0] == "students",
    )
    if _running(folder) == now:
        return
    strangers = [path for name in WORK for path in _strangers(folder, name)]
    if strangers:
        raise ValueError(
            f"{shown(strangers)} in {folder} was not written by hf_ddistill, or was changed since, "
            "and would be in the way; give another folder."
        )
    earlier = [folder / name for name in WORK if (folder / name).exists()]
    if earlier:
        place = free(folder / "replaced")
        place.mkdir()
        for work in earlier:
            os.rename(work, place / work.name)
    with writing(folder, keep=lambda path: path != RUNNING) as draft:
        (draft / RUNNING).write_text(json.dumps(now, indent=1) + "\n")


@contextlib.contextmanager
def finishing(folder: Path) -> Iterator[Path]:
    """A draft of what the run made, with which it ends; then earlier work is removed."""
    with writing(folder) as draft:
        yield draft
    for place in folder.glob("replaced*"):
        records = sorted(place.rglob(NAME), key=lambda file: len(file.parts), reverse=True)
        for file in records:
            remove_ours(file.parent, list(Record.read(file.parent).files))
            if relative_files(file.parent) == [NAME]:
                file.unlink()
        _remove_empty_folders(place)


def _running(folder: Path) -> Any:
    """The settings of the unfinished run whose folder this is, if it is one."""
    if not folder.is_dir() or not Record.read(folder).owns(RUNNING):
        return None
    return json.loads((folder / RUNNING).read_text())


def _strangers(folder: Path, under: str) -> list[str]:
    """Files below a folder that no record in it, nor in a folder below, has as ours."""
    if (folder / under).is_symlink():
        return [under]
    ours = set()
    for file in (folder / under).rglob(NAME):
        record = Record.read(file.parent)
        begun = [p for name in record.begun for p in relative_files(file.parent, name)]
        own = [path for path in record.files if record.owns(path)]
        ours |= {file} | {file.parent / path for path in [*own, *begun]}
    return [path for path in relative_files(folder, under) if folder / path not in ours]


def _remove_empty_folders(place: Path) -> None:
    inside = [path for path in place.rglob("*") if path.is_dir() and not path.is_symlink()]
    for path in [*sorted(inside, key=lambda path: len(path.parts), reverse=True), place]:
        with contextlib.suppress(OSError):  # something of another hand is in it
            path.rmdir()
