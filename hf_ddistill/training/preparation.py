"""Data sets of clean tokens from those of texts and conversations."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from datasets import Dataset, Features, IterableDataset, Value
from datasets import Sequence as Several
from datasets.fingerprint import Hasher
from transformers import PreTrainedTokenizerBase

from hf_ddistill.training.texts import Texts

TOKENS = Several(Value("int32"))


def prepared(
    data: Any,  # noqa: ANN401 (whatever the datasets library or torch takes)
    tokenizer: PreTrainedTokenizerBase | None,
    length: int | None,
    prompts: bool = False,
    assistant_only: bool = True,
    packing: bool = True,
) -> Any:  # noqa: ANN401
    """The data set as it is if it has tokens; texts and conversations are tokenised.

    A column `text` is packed: documents one after another, each as the tokenizer puts it (with a
    beginning token, if it puts one) and ended by its end token where it has one; the stream is cut
    into rows of `length` tokens, and the rest is dropped. Without `packing` each text is a row of
    its own between the tokenizer's special tokens, one that is longer several. `prompt` with
    `completion`, of text or of messages, are rows in which the prompt is context; in `messages`,
    read through the chat template, it is what others than the assistant say. These are cut at
    `length`.

    With `prompts` the rows are what an objective decodes behind: each text, each `prompt`, each
    conversation up to the assistant's last word, by itself and whole.

    Streams stay so. The rows of a `Dataset` in files are kept beside it, by its fingerprint, and
    found there by the next run of the same tokenizer and settings. Of a mapping from names to data
    sets each is prepared.

    Raises:
        ValueError: for an empty data set, for one with none of these columns, for text without a
            tokenizer or a length, for conversations without a chat template.
    """
    if data is None:
        return None
    if isinstance(data, Mapping):
        about = (tokenizer, length, prompts, assistant_only, packing)
        return {name: prepared(part, *about) for name, part in data.items()}
    if isinstance(data, (list, tuple)):
        data = Dataset.from_list(list(data)) if len(data) else data
    first = next(iter(data), None)
    if first is None:
        raise ValueError("The data set is empty; at least one row is needed.")
    if not isinstance(first, Mapping):
        raise ValueError(
            f"A row of a data set is a mapping with 'input_ids' or 'text', got {type(first)}."
        )
    if "input_ids" in first:
        return data
    texts = Texts(tokenizer, length, prompts, assistant_only, packing)
    kind = texts.kind(first)
    if tokenizer is None or length is None:
        raise ValueError("Text needs a tokenizer (processing_class=) and a max_length.")
    if isinstance(data, IterableDataset):
        about = {"data": data, "texts": texts, "kind": kind}
        rows = IterableDataset.from_generator(_stream, gen_kwargs=about)
        _check_any(next(iter(rows), None) is not None, texts, kind)
        return rows
    if not isinstance(data, Dataset):
        data = Dataset.from_list(list(data))
    found = _rows(data, texts, kind)
    texts.tell_lost(kind, len(data) - len(found))
    _check_any(bool(len(found)), texts, kind)
    return found


def _check_any(found: bool, texts: Texts, kind: str) -> None:
    """Raise where all rows are lost, by what they lack."""
    if found:
        return
    if texts.prompts:
        raise ValueError("The prompts are all empty: not one of them has a token.")
    if kind == "text" and not texts.packing:
        raise ValueError("The texts are all empty: not one of them has a token.")
    if kind == "text":
        raise ValueError(f"The text does not fill one row of max_length={texts.length} tokens.")
    raise ValueError(f"No row has a token to train on within max_length={texts.length} tokens.")


def _rows(data: Dataset, texts: Texts, kind: str) -> Dataset:
    """All rows of a data set, kept on disk where it is."""
    read, columns = texts.reader(kind), texts.columns(kind)

    def several(batch: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
        names = list(batch)
        rows = [
            row
            for values in zip(*batch.values(), strict=True)
            for row in read(dict(zip(names, values, strict=True)))
        ]
        return {name: [row[name] for row in rows] for name in columns}

    return data.with_format(None).map(
        several,
        batched=True,
        remove_columns=data.column_names,
        features=Features(dict.fromkeys(columns, TOKENS)),
        # The reader remembers, and a tokenizer changes with use: neither can be asked for a key.
        new_fingerprint=Hasher.hash([data._fingerprint, *_key(texts)]),
        desc="Reading texts",
    )


def _key(texts: Texts) -> list[Any]:
    """What the rows hang on beside the data."""
    tokenizer = texts.tokenizer
    about = [texts.length, texts.prompts, texts.assistant_only, texts.packing]
    about += [type(tokenizer).__qualname__]
    about += [tokenizer.eos_token_id, str(getattr(tokenizer, "chat_template", None))]
    if not tokenizer.is_fast:
        return [*about, tokenizer]
    inner = json.loads(tokenizer.backend_tokenizer.to_str())
    # Of the last call, and not of the next one.
    return [*about, {name: inner[name] for name in inner.keys() - {"truncation", "padding"}}]


def _stream(data: IterableDataset, texts: Texts, kind: str) -> Iterator[dict[str, list[int]]]:
    """The rows of a stream, one after another."""
    read, lost = texts.reader(kind), 0
    for row in data:
        found = read(row)
        lost += not found
        yield from ({name: ids.tolist() for name, ids in each.items()} for each in found)
    texts.tell_lost(kind, lost)
