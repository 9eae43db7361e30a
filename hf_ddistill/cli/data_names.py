"""What names a data set: checked before anything that reads it is imported."""

from __future__ import annotations

import glob
from pathlib import Path

#: How the files of one kind are read, by the end of their names.
KINDS = {".txt": "text", ".md": "text", ".parquet": "parquet", ".jsonl": "json", ".csv": "csv"}


def is_glob(name: str) -> bool:
    """Whether a name stands for all files that match it."""
    return glob.has_magic(name)


def text_files(name: str) -> list[Path]:
    """The text files of a name, in order: a file, those of a folder and below, or of a glob.

    Raises:
        ValueError: if there is none.
    """
    place = Path(name)
    if place.is_dir():
        found = [p for p in place.rglob("*.txt") if not _is_hidden(p.relative_to(place))]
    elif is_glob(name) and not place.exists():
        found = [Path(p) for p in glob.glob(name, recursive=True)]
    else:
        found = [place]
    # Links that lead nowhere and folders whose name ends in .txt are no text.
    found = [p for p in found if p.is_file()]
    if not found:
        raise ValueError(f"There is no text file (.txt) in {name}.")
    return sorted(found)


def _is_hidden(place: Path) -> bool:
    return any(part.startswith(".") for part in place.parts)


def is_text_folder(name: str) -> bool:
    """Whether a name is a folder whose data are text files, or a glob of such."""
    place = Path(name)
    if is_glob(name) and not place.exists():
        return True
    if not place.is_dir():
        return False
    others = (".parquet", ".jsonl", ".json", ".csv", ".arrow", ".py")
    files = (p for p in place.rglob("*") if p.is_file() and not _is_hidden(p.relative_to(place)))
    endings = {file.suffix for file in files}
    return ".txt" in endings and not endings & set(others)


def check_data_name(name: str, split: str, streaming: bool, option: str = "--data") -> None:
    """Raise for digits that there are not, and for a file that is missing or empty.

    Args:
        name: digits, digits:LEVELS, a file, or a folder or Hub id, which is not looked at.
        split: of it.
        streaming: whether it is to be a stream.
        option: that gave the name, for the errors.
    """
    if name.split(":")[0] == "digits":
        levels = name.partition(":")[2] or "2"
        if not levels.isdecimal() or len(levels) > 2:
            raise ValueError(
                f"{option} {name}: digits:LEVELS takes a number of levels from 2 to 17."
            )
        if split != "train" or streaming:
            raise ValueError(
                f"{option} {name} is in memory: it has no other split and is no stream."
            )
        return
    path = Path(name)
    if is_text_folder(name):
        files = text_files(name)
        if is_glob(name) and (other := [f for f in files if f.suffix not in (".txt", ".md", "")]):
            raise ValueError(f"{option} {name} names {other[0]}; a glob is of text files.")
        return
    if path.suffix not in KINDS:
        if path.is_file():
            raise ValueError(f"{option} names {name}, a file that is none of {', '.join(KINDS)}.")
        return
    if not path.is_file():
        raise ValueError(f"{option} names {name}, which is not a file.")
    if path.stat().st_size == 0:
        raise ValueError(f"The data set {name} is empty; at least one row is needed.")


def held_out_name(
    data: str, split: str, eval_data: str | None, eval_split: str | None
) -> tuple[str, str] | None:
    """Name and split of the data that are held out; None where none are asked for."""
    if eval_data is None and eval_split is None:
        return None
    name, of = eval_data or data, eval_split or "train"
    if name == data and of == split:
        raise ValueError(
            f"The data that are held out are those of the training, {name} ({of}); give another "
            "--eval-split, such as train[:1000] beside --split train[1000:]."
        )
    return name, of
