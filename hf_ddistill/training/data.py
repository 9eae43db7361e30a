"""Data sets and batches of clean tokens; corruption happens in the training step, never here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset, IterableDataset
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedTokenizerBase


@dataclass(frozen=True)
class TokenCollator:
    """Rows with `input_ids` (and `class_labels`, `attention_mask`) to a batch of int64 tensors.

    Rows of unequal length are padded on the right, and only then is there an `attention_mask`.

    Args:
        pad_token_id: put behind short rows; None where all rows have one length.
    """

    pad_token_id: int | None = None

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        ids = [torch.as_tensor(row["input_ids"], dtype=torch.int64).flatten() for row in rows]
        masks = [
            torch.as_tensor(row.get("attention_mask", [1] * len(i)))
            for row, i in zip(rows, ids, strict=True)
        ]
        longest = max(len(i) for i in ids)
        padded = any(len(i) < longest for i in ids)
        if padded and self.pad_token_id is None:
            raise ValueError(
                f"Rows have from {min(len(i) for i in ids)} to {longest} tokens and there is no "
                "pad token; pack them to one length or set pad_token_id."
            )
        batch = {"input_ids": self._stack(ids, longest, self.pad_token_id or 0)}
        if padded or not all(bool(mask.all()) for mask in masks):
            batch["attention_mask"] = self._stack([mask.long() for mask in masks], longest, 0)
        labels = next((k for k in ("class_labels", "label") if k in rows[0]), None)
        if labels is not None:
            batch["class_labels"] = torch.tensor([int(row[labels]) for row in rows])
        return batch

    @classmethod
    def suited_to(
        cls, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase | None
    ) -> TokenCollator:
        """One with the model's pad token, or else the tokenizer's."""
        tokens = [getattr(source, "pad_token_id", None) for source in (config, tokenizer)]
        return cls(next((token for token in tokens if token is not None), None))

    @staticmethod
    def _stack(rows: list[Tensor], length: int, fill: int) -> Tensor:
        return torch.stack(
            [torch.nn.functional.pad(row, (0, length - len(row)), value=fill) for row in rows]
        )


def prepared(
    data: Any,  # noqa: ANN401 (whatever the datasets library or torch takes)
    tokenizer: PreTrainedTokenizerBase | None,
    length: int | None,
) -> Any:  # noqa: ANN401
    """The data set as it is if it has tokens; with a column `text`, tokenised and packed.

    Packing puts documents one after another, each ended by the tokenizer's end token where it has
    one, and cuts the stream into rows of `length` tokens; the rest is dropped. Streams stay so.
    Of a mapping from names to data sets each is prepared.

    Raises:
        ValueError: for an empty data set, for one with neither column, for text without a
            tokenizer or a length.
    """
    if data is None:
        return None
    if isinstance(data, Mapping):
        return {name: prepared(part, tokenizer, length) for name, part in data.items()}
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
    if "text" not in first:
        raise ValueError(
            f"A data set needs a column 'input_ids' or 'text', got: {', '.join(sorted(first))}."
        )
    if tokenizer is None or length is None:
        raise ValueError("Text needs a tokenizer (processing_class=) and a max_length.")

    def packed() -> Iterator[dict[str, list[int]]]:
        rest: list[int] = []
        end = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
        for row in data:
            rest += tokenizer(row["text"], add_special_tokens=False)["input_ids"] + end
            while len(rest) >= length:
                yield {"input_ids": rest[:length]}
                rest = rest[length:]

    if isinstance(data, IterableDataset):
        return IterableDataset.from_generator(packed)
    rows = list(packed())
    if not rows:
        raise ValueError(f"The text does not fill one row of max_length={length} tokens.")
    return Dataset.from_list(rows)
