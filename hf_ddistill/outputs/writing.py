"""Writing aside and moving in: at every instant the old or the new is there, whole.

A folder is written in a *draft* inside it, `.hf_ddistill-TOKEN/`, and moved in file by file:

    draft/new/...     what was written
    draft/plan.json   once all of it is there: what will leave, what will come
    old files         folder -> draft/old, those that make it a model first
    new files         draft/new -> folder, those that make it a model last
    record            draft/record.json -> folder: from here on the new state holds

Whoever finds a plan (`recover`) whose token the record does not have moves all of it back; where
the record has it, the draft is what is left over. Between the two the folder holds no
configuration, so that nobody loads a mixture.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from filelock import Timeout
from huggingface_hub.utils import WeakFileLock
from safetensors import SafetensorError

from hf_ddistill.outputs.names import entries_first
from hf_ddistill.outputs.record import (
    DRAFT,
    NAME,
    Print,
    Record,
    relative_files,
    remove_empty,
)

_DRAFT_PARTS = {"new", "old", "lock", "plan.part", "plan.json", "record.json"}
#: Seconds to wait for the lock of a draft; who holds it is writing.
_PATIENCE = 0.05


@contextlib.contextmanager
def writing(folder: str | Path, keep: Callable[[str], bool] = lambda path: False) -> Iterator[Path]:
    """A draft whose files take the place of ours in `folder` when the block ends.

    After an exception, or if the process is killed, the folder is what it was before; in the second
    case the next command that looks at it, or `recover`, sees to that. Files that are not ours
    stay as they are.

    Args:
        folder: made if it is not there. `check_folder` says beforehand whether it may be written.
        keep: which of our files stay although they are not in the draft.

    Raises:
        ValueError: if a file that is not ours (any more) is in the way; what was written stays
            beside it, and the message says where.
        OSError: if the files cannot be written.
    """
    folder = Path(folder)
    made = _make(folder)
    try:
        recover(folder, wait=True)
        token = secrets.token_hex(4)
        draft = folder / f"{DRAFT}{token}"
        draft.mkdir()
        try:
            with WeakFileLock(draft / "lock"):
                (draft / "new").mkdir()
                with _no_safetensor_error(folder):
                    yield draft / "new"
                _move_in(folder, draft, keep)
        finally:
            if not (draft / "plan.json").exists() or _settle(folder, draft):
                _discard(draft)
    finally:
        for place in made:
            with contextlib.suppress(OSError):  # it holds what was written, or something else
                place.rmdir()


@contextlib.contextmanager
def writing_file(file: str | Path) -> Iterator[Path]:
    """A draft, of the same suffix, that becomes `file` when the block ends.

    Raises:
        ValueError: if there is a file that is not ours.
    """
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f"{DRAFT}{secrets.token_hex(4)}-{file.name}")
    try:
        yield draft
        record = Record.read(file.parent)
        known = record.alone.get(file.name)
        if os.path.lexists(file) and (known is None or not record.is_at(file.name, known)):
            raise ValueError(f"{file} is there and was not written by hf_ddistill; it is kept.")
        record.alone[file.name] = Print.of(draft)
        os.replace(draft, file)
        record.write()
    finally:
        draft.unlink(missing_ok=True)


def recover(folder: str | Path, wait: bool = False) -> None:
    """Bring a folder back to the state before a writing that was killed, or after it.

    Args:
        folder: may be missing.
        wait: whether a writing that is under way is an error; else it is left alone.

    Raises:
        ValueError: if another process is writing into the folder, with `wait`.
    """
    for draft in drafts(Path(folder)):
        if not wait and not (draft / "plan.json").exists():
            continue  # nothing has been moved yet; it may be in the making
        try:
            with WeakFileLock(draft / "lock", timeout=_PATIENCE):
                done = not (draft / "plan.json").exists() or _settle(Path(folder), draft)
        except Timeout as error:
            if wait:
                raise ValueError(
                    f"Another process is writing into {folder} (it holds {draft.name}/lock)."
                ) from error
            continue
        if done:
            _discard(draft)


def drafts(folder: Path) -> list[Path]:
    """The drafts in a folder, of which nothing is the user's."""
    if folder.is_symlink() and not folder.exists():
        return []
    found = sorted(folder.glob(f"{DRAFT}*")) if folder.is_dir() else []
    named = [p for p in found if re.fullmatch(re.escape(DRAFT) + "[0-9a-f]{8}", p.name)]
    real = [p for p in named if p.is_dir() and not p.is_symlink()]
    inside = {place: {child.name for child in place.iterdir()} for place in real}
    return [
        p for p, names in inside.items() if names <= _DRAFT_PARTS and (not names or "lock" in names)
    ]


def remove_ours(folder: str | Path, paths: Iterable[str]) -> None:
    """Remove those of the paths that are ours, and the folders that are empty then."""
    record = Record.read(folder)
    gone = [path for path in paths if record.owns(path)]
    for path in gone:
        (record.folder / path).unlink()
        del record.files[path]
    remove_empty(record.folder, gone)
    if gone:
        record.write()


def set_aside(folder: str | Path, chosen: Callable[[str], bool]) -> dict[str, str]:
    """Move those of our files that are `chosen` to a folder `replaced` beside them.

    Returns:
        Where each one was -> where it is, both relative to `folder`.
    """
    record = Record.read(folder)
    paths = [path for path in record.files if chosen(path) and record.owns(path)]
    if not paths:
        return {}
    number, place = 1, "replaced"
    while os.path.lexists(record.folder / place):
        number += 1
        place = f"replaced-{number}"
    moves = {path: f"{place}/{path}" for path in paths}
    # Listed at both places first: wherever a kill leaves them, they are known as ours.
    record.files |= {moves[path]: record.files[path] for path in paths}
    record.write()
    move_files(record.folder, moves)
    return moves


def move_files(folder: Path, moves: dict[str, str]) -> None:
    """Move files within a folder, and remove the folders that are empty then."""
    for source, target in moves.items():
        _move(folder / source, folder / target)
    remove_empty(folder, moves)


def _make(folder: Path) -> list[Path]:
    """Make a folder with its parents; returns those that were not there, the innermost first."""
    missing = [place for place in (folder, *folder.parents) if not os.path.lexists(place)]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


@contextlib.contextmanager
def _no_safetensor_error(folder: Path) -> Iterator[None]:
    try:
        yield
    except SafetensorError as error:  # what safetensors raises where others raise OSError
        raise OSError(f"Nothing was written into {folder}: {error}") from error


def _move_in(folder: Path, draft: Path, keep: Callable[[str], bool]) -> None:
    record = Record.read(folder)
    new = {path: Print.of(draft / "new" / path) for path in relative_files(draft / "new")}
    leaving = [path for path in record.present() if path in new or not keep(path)]
    foreign = [path for path in leaving if not record.owns(path)]
    foreign += [path for path in new if path not in leaving and _in_the_way(record, path)]
    if foreign:
        place = free(folder / "unplaced")
        os.rename(draft / "new", place)
        raise ValueError(
            f"{', '.join(foreign)} in {folder} is not, or no longer, what hf_ddistill wrote there; "
            f"it is kept, and what was to be written is in {place}."
        )
    kept = {p: v for p, v in record.files.items() if p not in leaving and p in record.present()}
    after = Record(folder, kept | new, record.alone, record.begun, draft.name)
    after.write_to(draft / "record.json")
    old = {path: record.files[path] for path in sorted(leaving, key=entries_first)}
    _write_plan(draft, old, new)
    for path in old:
        _move(folder / path, draft / "old" / path)
    for path in sorted(new, key=entries_first, reverse=True):
        _move(draft / "new" / path, folder / path)
    os.replace(draft / "record.json", folder / NAME)
    remove_empty(folder, old)


def _in_the_way(record: Record, path: str) -> bool:
    """Whether something of the user's is at a path, or at that of a folder that it needs."""
    parents = [record.folder / parent for parent in list(Path(path).parents)[:-1]]
    blocked = any(os.path.lexists(place) and not place.is_dir() for place in parents)
    return blocked or record.link_on_the_way(path) or os.path.lexists(record.folder / path)


def _write_plan(draft: Path, old: dict[str, Print], new: dict[str, Print]) -> None:
    told = {
        "old": {p: vars(v) for p, v in old.items()},
        "new": {p: vars(v) for p, v in new.items()},
    }
    (draft / "plan.part").write_text(json.dumps(told), encoding="utf-8")
    os.replace(draft / "plan.part", draft / "plan.json")


def _settle(folder: Path, draft: Path) -> bool:
    """Undo a plan that did not come to its end; whether the draft can go now."""
    if Record.read(folder).token == draft.name:
        return True
    plan = json.loads((draft / "plan.json").read_text(encoding="utf-8"))
    here = Record(folder)
    for path, told in plan["new"].items():
        if not (draft / "new" / path).exists() and here.is_at(path, Print(**told)):
            _move(folder / path, draft / "new" / path)
    remove_empty(folder, plan["new"])
    for path in sorted(plan["old"], key=entries_first, reverse=True):
        if (draft / "old" / path).exists() and not os.path.lexists(folder / path):
            _move(draft / "old" / path, folder / path)
    left = relative_files(draft / "old")
    if left:
        place = free(folder / "unplaced")
        os.rename(draft / "old", place)
        raise ValueError(
            f"A writing into {folder} was cut off, and then {', '.join(left)} was written there by "
            f"another hand: the earlier files are in {place}."
        )
    return True


def _discard(draft: Path) -> None:
    """Remove a draft, its plan first, without which nothing in it is wanted, and its lock last."""
    for part in ("plan.json", "plan.part", "record.json"):
        (draft / part).unlink(missing_ok=True)
    for part in ("new", "old"):
        if (draft / part).is_dir():
            shutil.rmtree(draft / part)
    (draft / "lock").unlink(missing_ok=True)
    draft.rmdir()


def free(place: Path) -> Path:
    """The path, or the first with a number behind it, at which nothing is."""
    number, free = 1, place
    while os.path.lexists(free):
        number += 1
        free = place.with_name(f"{place.name}-{number}")
    return free


def _move(source: Path, target: Path) -> None:
    if os.path.lexists(target):
        raise FileExistsError(f"{target} is there; it is kept.")
    target.parent.mkdir(parents=True, exist_ok=True)
    os.rename(source, target)
