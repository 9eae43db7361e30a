"""May this be written? Asked before any work is done."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from hf_ddistill.outputs.names import is_model_file
from hf_ddistill.outputs.record import NAME, Record, relative_files
from hf_ddistill.outputs.writing import drafts, recover

#: Names that a message shows of what is in a folder.
SHOWN = 6


def check_folder(
    path: str | Path,
    *,
    overwrite: bool = False,
    goes_on: bool = False,
    sources: Iterable[str | Path] = (),
    makes: Callable[[str], bool] = is_model_file,
) -> Path:
    """The path of a folder that may be written.

    Args:
        path: need not exist.
        overwrite: whether files that we wrote there may be replaced.
        goes_on: whether what is there is this run's own, which goes on.
        sources: what is read (folders, or ids on the Hub), which is never overwritten.
        makes: which files will be written; one of these names that is not ours is in the way.

    Raises:
        ValueError: if it is a file, or is not empty and may not be written, with what is in it.
    """
    folder = Path(path)
    _check_place(folder)
    recover(folder, wait=True)
    names = contents(folder)
    if not names:
        return folder
    if not (overwrite or goes_on):
        raise ValueError(
            f"The output {folder} is not empty: it holds {shown(names)}. Give another folder; "
            "--overwrite replaces what hf_ddistill wrote there, and nothing else."
        )
    if overwrite:
        _check_protected(folder, sources)
    record = Record.read(folder)
    asked = [path for path in record.present() if is_model_file(path) or not goes_on]
    changed = [path for path in asked if not record.owns(path)]
    if changed:
        raise ValueError(
            f"{shown(changed)} in {folder} was changed since hf_ddistill wrote it, so that it is "
            "yours now; move it away, or give another folder."
        )
    if overwrite and not record.present():
        raise ValueError(
            f"--overwrite replaces what hf_ddistill wrote, and nothing in {folder} is recorded as "
            f"such ({NAME}): it holds {shown(names)}. Give another folder."
        )
    strangers = [p for p in relative_files(folder) if makes(p) and p not in record.files]
    if strangers:
        raise ValueError(
            f"{shown(strangers)} in {folder} was not written by hf_ddistill (it is not recorded in "
            f"{NAME}) and would be in the way; give another folder."
        )
    return folder


def check_file(option: str, path: str | Path, overwrite: bool = False) -> Path:
    """The path of a file that may be written.

    Args:
        option: that names it, for messages.
        path: need not exist.
        overwrite: whether a file that we wrote may be replaced.

    Raises:
        ValueError: if it is a folder, or is there and may not be replaced.
    """
    file = Path(path)
    if file.is_dir():
        raise ValueError(f"{option} names {file}, which is a folder; give a file.")
    _check_parents(file)
    if not os.path.lexists(file):
        return file
    if file.is_symlink():
        raise ValueError(f"{option} names {file}, which is a symbolic link; it is kept.")
    if not overwrite:
        raise ValueError(
            f"{option} names {file}, which is there; give another name, or --overwrite if "
            "hf_ddistill wrote it."
        )
    record = Record.read(file.parent)
    if file.name not in record.alone or not record.is_at(file.name, record.alone[file.name]):
        raise ValueError(
            f"{option} names {file}, which hf_ddistill did not write, or which was changed since; "
            "it is kept."
        )
    return file


def contents(folder: Path) -> list[str]:
    """What is in a folder, but for a record that lists nothing and for drafts."""
    if not folder.is_dir():
        return []
    passing = {draft.name for draft in drafts(folder)}
    names = sorted({child.name for child in folder.iterdir()} - passing)
    if names == [NAME] and not Record.read(folder).present():
        return []
    return names


def shown(names: list[str], most: int = SHOWN) -> str:
    """The first names, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def _check_place(folder: Path) -> None:
    if os.path.lexists(folder) and not folder.is_dir():
        kind = "a symbolic link that leads nowhere" if folder.is_symlink() else "a file"
        raise ValueError(f"The output {folder} is {kind}; give a folder.")
    _check_parents(folder)


def _check_parents(path: Path) -> None:
    there = next(parent for parent in path.absolute().parents if os.path.lexists(parent))
    if not there.is_dir():
        raise ValueError(f"{path} cannot be written: {there} is no folder.")
    if not os.access(there if not path.is_dir() else path, os.W_OK):
        raise ValueError(f"{path} cannot be written: you may not write into {there}.")


def _check_protected(folder: Path, sources: Iterable[str | Path]) -> None:
    """Raise if a folder is never overwritten, whatever is in it."""
    if folder.is_symlink():
        raise ValueError(f"--overwrite does not go through a symbolic link, which {folder} is.")
    place = folder.resolve()
    reasons = [("the current folder", Path.cwd()), ("your home", Path.home())]
    reasons += [(f"the source {source}", Path(source)) for source in sources]
    for name, other in reasons:
        # An id on the Hub is no path; a file's folder is not its source.
        other = other.resolve()
        if other.exists() and (other == place or place in other.parents):
            is_ = "is" if other == place else "holds"
            raise ValueError(f"--overwrite does not touch {folder}: it {is_} {name}.")
