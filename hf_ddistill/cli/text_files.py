"""Folders and globs of text files as data, and the last part of a text held out."""

from __future__ import annotations

import os
from glob import escape
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Value, concatenate_datasets, load_dataset
from datasets.exceptions import DatasetGenerationError
from pyarrow import compute

from hf_ddistill.cli.data_names import text_files


def documents(name: str, kind: str, split: str, streaming: bool) -> Any:
    """Text files as rows with `text`, line breaks and all.

    Args:
        name: a file, a folder, or a glob.
        kind: what a document is: "file", "paragraph" (up to an empty line) or "line" (then without
            its line break).
        split: "train", or a slice of it.
        streaming: read them as a stream.

    Raises:
        ValueError: if a file is not UTF-8, or there is no text in any.
    """
    files = text_files(name)
    if streaming:
        for file in files:
            check_utf8(file)
    how = {"file": "document", "paragraph": "paragraph", "line": "line"}[kind]
    try:
        found = load_dataset(
            "text",
            data_files=[exactly(file) for file in files],
            encoding="utf-8-sig",  # UTF-8; the mark before the text of some editors is no text
            sample_by=how,
            split=split,
            streaming=streaming,
        )
    except (DatasetGenerationError, ValueError) as error:
        for file in files:
            check_utf8(file)
        raise ValueError(f"{name} cannot be read: {error.__cause__ or error}") from error
    return found.filter(_is_text)


def exactly(file: Path) -> str:
    """The pattern that matches one file, whatever its name has in it."""
    return escape(os.path.abspath(file))


def _is_text(row: dict[str, str]) -> bool:
    return bool(row["text"].strip())


def check_utf8(file: Path) -> None:
    """Raise for a file that is not UTF-8, with the line."""
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as wrong:
                byte = f"byte 0x{line[wrong.start]:02x}"
                raise ValueError(
                    f"{file} is not UTF-8, line {number}: {byte}; save it as UTF-8."
                ) from wrong


def split_off(data: Dataset, share: float) -> tuple[Dataset, Dataset]:
    """The last `share` of a text, by characters, apart from what comes before.

    The document in which the last part begins is cut there, behind a line break if one is near, so
    that one long document can be split as well as a thousand short ones. Data of tokens are split
    between rows.

    Raises:
        ValueError: if nothing would be left on one of the sides.
    """
    if "text" not in data.column_names:
        kept = len(data) - max(1, round(share * len(data)))
        _check(kept > 0, share, f"{len(data)} rows")
        return data.select(range(kept)), data.select(range(kept, len(data)))
    lengths = compute.utf8_length(data.with_format("arrow")["text"][:]).to_pylist()
    budget = share * sum(lengths)
    cut, row = 0.0, len(lengths)
    while row and cut + lengths[row - 1] <= budget:
        row -= 1
        cut += lengths[row]
    missing = round(budget - cut)
    parts = [data.select(list(range(row))), data.select(list(range(row, len(data))))]
    # A document that is short beside the share is not worth a cut.
    if row and missing > max(1, budget // 10):
        text = data[row - 1]["text"]
        at = _near_break(text, len(text) - missing)
        before, behind = ([{"text": part}] for part in (text[:at], text[at:]))
        parts = [
            _joined(data.select(range(row - 1)), Dataset.from_list(before)),
            _joined(Dataset.from_list(behind), parts[1]),
        ]
    _check(all(map(len, parts)), share, f"{sum(lengths):,} characters")
    return parts[0], parts[1]


def _joined(*parts: Dataset) -> Dataset:
    """Texts alone, of those that have any."""
    wanted = Features({"text": Value("string")})
    return concatenate_datasets([p.select_columns(["text"]).cast(wanted) for p in parts if len(p)])


def _near_break(text: str, at: int) -> int:
    """A place behind a line break within 200 characters of another one, or else that one."""
    found = text.rfind("\n", max(at - 200, 0), at + 1)
    return found + 1 if found > 0 else at


def _check(enough: bool, share: float, of: str) -> None:
    if not enough:
        raise ValueError(f"--held-out={share} leaves nothing on one side of {of}.")
