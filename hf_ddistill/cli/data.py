"""The data sets that commands read: digits, files and what the Hub has."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from datasets import Dataset, IterableDataset, LargeList, List, Value, load_dataset
from datasets.data_files import EmptyDatasetError
from datasets.exceptions import DataFilesNotFoundError, DatasetGenerationError
from pyarrow import ArrowException, compute
from transformers import PreTrainedModel

from hf_ddistill.cli.data_names import KINDS, check_data_name, held_out_name, is_text_folder
from hf_ddistill.cli.reachable import check_data_set
from hf_ddistill.cli.text_files import documents as of_files
from hf_ddistill.cli.text_files import exactly, split_off
from hf_ddistill.evaluation.digits_data import load_digit_tokens
from hf_ddistill.models import unwrapped
from hf_ddistill.models.positions import window

#: Tokens in a row of text where nobody says.
LENGTH = 256


def load_data(options: Any) -> Any:
    """The rows that a command reads, with `input_ids` or `text`."""
    return load(options.data, options.split, options.streaming)


def load_parts(options: Any) -> tuple[Any, Any]:
    """The rows to train on, and those that are held out: None where none are asked for."""
    about = options.documents
    data = load(options.data, options.split, options.streaming, documents=about)
    named = held_out_name(options.data, options.split, options.eval_data, options.eval_split)
    if named is not None:
        return data, load(*named, options.streaming, "--eval-data", documents=about)
    share = options.held_out
    if share is None:
        share = options.HELD_OUT if _fills_rows(data, options) else 0.0
    return split_off(data, share) if share else (data, None)


def _fills_rows(data: Any, options: Any) -> bool:
    """Whether the part of a text that is held out unasked has characters for some rows."""
    if not isinstance(data, Dataset) or "text" not in data.column_names:
        return False
    characters = compute.sum(compute.utf8_length(data.data.column("text"))).as_py() or 0
    return characters * options.HELD_OUT >= 8 * (options.max_length or LENGTH)


def load(
    name: str,
    split: str = "train",
    streaming: bool = False,
    option: str = "--data",
    *,
    documents: str | None = None,
) -> Any:
    """A data set by its name.

    Args:
        name: as the help of --data says.
        split: of a file there is "train" alone, and its slices.
        streaming: read it as a stream.
        option: that gave the name, for the errors.
        documents: of text files: "file", "paragraph" or "line"; a line where nobody says, and a
            file where there are several.

    Raises:
        ValueError: if it cannot be read, with the line where that can be told, or a column holds
            something else than it must.
    """
    check_data_name(name, split, streaming, option)
    if name.split(":")[0] == "digits":
        if documents is not None:
            raise ValueError(f"--documents is of text files, and {option} is {name}.")
        return _digits(name)
    if is_text_folder(name):
        return _checked(of_files(name, documents or "file", split, streaming), name)
    path, kind = Path(name), KINDS.get(Path(name).suffix)
    if kind == "text":
        return _checked(of_files(name, documents or "line", split, streaming), name)
    if documents is not None:
        raise ValueError(f"--documents is of text files, and {option} is {name}.")
    if kind is None:
        check_data_set(name, option)
        try:
            data = load_dataset(name, split=split, streaming=streaming)
        except (EmptyDatasetError, DataFilesNotFoundError) as error:
            raise ValueError(f"The folder {name} holds no files of data.") from error
        except (DatasetGenerationError, BadZipFile, ArrowException) as error:
            raise ValueError(f"{name} cannot be read: {error.__cause__ or error}") from error
        return _checked(data, name)
    try:
        data = load_dataset(kind, data_files=exactly(path), split=split, streaming=streaming)
        if streaming:
            data = _named(data, path)
        elif "text" in data.column_names:
            data.data.column("text").validate(full=True)  # JSON is read without a look at its UTF-8
    # Parsers of JSON, CSV and Parquet raise errors that are ValueErrors, as a wrong split does.
    except (DatasetGenerationError, ValueError) as error:
        raise ValueError(_what_is_wrong(path, error)) from error
    return _checked(data, name)


def without_labels(data: Any) -> Any:
    """The data without classes, which a model that has none does not take."""
    if data is None:
        return None
    labels = [c for c in ("label", "class_labels") if c in (data.column_names or [])]
    return data.remove_columns(labels) if labels else data


def check_length(data: Any, model: PreTrainedModel, length: int | None) -> None:
    """Raise if rows are longer than a model reads.

    Args:
        data: with `input_ids`, or with what becomes rows of `length` tokens; None for none.
        model: that is to read them.
        length: what was asked for, if anything was.
    """
    most = window(model)
    if data is None or most is None:
        return
    name = f"{type(unwrapped(model)).__name__}, which reads at most {most}"
    if length is not None and length > most:
        raise ValueError(f"--max-length={length} is too long for {name}.")
    found = longest(data)
    if found is not None and found > most:
        raise ValueError(f"The data have rows of {found} tokens, too long for {name}.")


def longest(data: Any) -> int | None:
    """Tokens in the longest row; of a stream in its first one, and None where there are none."""
    if isinstance(data, Dataset):
        if "input_ids" not in data.column_names:
            return None
        return compute.max(compute.list_value_length(data.data.column("input_ids"))).as_py()
    first = next(iter(data))
    return len(first["input_ids"]) if "input_ids" in first else None


def highest(data: Dataset) -> int:
    """The greatest token."""
    return compute.max(compute.list_flatten(data.data.column("input_ids"))).as_py() or 0


def _digits(name: str) -> Dataset:
    tokens, labels = load_digit_tokens(int(name.partition(":")[2] or "2"))
    return Dataset.from_dict({"input_ids": tokens.tolist(), "label": labels.tolist()})


def _named(data: IterableDataset, file: Path) -> IterableDataset:
    """The same stream, whose errors name the file, however late they come."""
    given = {"data": data, "file": file}
    return IterableDataset.from_generator(_rows, features=data.features, gen_kwargs=given)


def _rows(data: IterableDataset, file: Path) -> Iterator[dict[str, Any]]:
    try:
        yield from data
    except (DatasetGenerationError, ValueError) as error:
        raise ValueError(_what_is_wrong(file, error)) from error


def _what_is_wrong(file: Path, error: Exception) -> str:
    """One sentence, with the number of the first line that cannot be read."""
    root = error if error.__cause__ is None else error.__cause__
    if file.suffix == ".parquet":
        return f"{file} cannot be read as Parquet: {root}"
    for number, line in enumerate(file.read_bytes().splitlines(), 1):
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as wrong:
            byte = f"byte 0x{line[wrong.start]:02x} at its column {wrong.start + 1}"
            return f"{file} is not UTF-8, line {number}: {byte}; save it as UTF-8."
        if file.suffix == ".jsonl" and text.strip():
            try:
                row = json.loads(text)
            except json.JSONDecodeError as wrong:
                return f"{file} is no JSON, line {number}: {wrong}."
            if not isinstance(row, dict):
                return f"{file}, line {number}: a row is a JSON mapping, got {text[:40]!r}."
    return f"{file} cannot be read: {root}"


def _checked(data: Any, name: str) -> Any:
    """The data; raises if there are none, or if the columns that models read hold something else
    than they must."""
    if next(iter(data), None) is None:
        raise ValueError(f"The data set {name} is empty; at least one row is needed.")
    features = data.features or {}
    accepted = {"input_ids": "a list of integers", "text": "a string"}
    for column, meant in accepted.items():
        feature = features.get(column)
        if feature is None or not hasattr(data, "data"):  # a stream is checked where it is read
            continue
        inner = feature.feature if isinstance(feature, List | LargeList) else feature
        dtype = inner.dtype if isinstance(inner, Value) else str(inner)
        right = "int" in dtype if column == "input_ids" else "string" in dtype
        if not right or isinstance(feature, List | LargeList) != (column == "input_ids"):
            raise ValueError(f"{column!r} must be {meant} in each row of {name}, got {feature}.")
        empty = data.data.column(column).null_count
        if empty:
            raise ValueError(f"{column!r} is missing in {empty:,} rows of {name}.")
    return data
