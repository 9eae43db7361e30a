"""Batches of clean tokens; corruption happens in the training step, never here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from hf_ddistill.training.texts import CONTEXT


@dataclass(frozen=True)
class TokenCollator:
    """Rows with `input_ids` (and `labels`, `class_labels`, `attention_mask`) to a batch of int64
    tensors.

    Rows of unequal length are padded on the right, to whole blocks, and only then is there an
    `attention_mask`. `labels`, or a `completion_mask` or `assistant_masks` as of trl, say which
    tokens are context (-100, or 0): the batch has `labels` where there are any.

    Args:
        pad_token_id: put behind short rows; None where all rows have one length.
        multiple: of tokens, that rows are padded to: a block.

    Raises:
        ValueError: for rows that would be padded without a pad token, or have no tokens at all; for
            tokens or classes that are no whole numbers; for labels that are other tokens than
            `input_ids`.
    """

    pad_token_id: int | None = None
    multiple: int = 1

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        ids = [whole_numbers("input_ids", row["input_ids"]).flatten() for row in rows]
        masks = [
            torch.as_tensor(row.get("attention_mask", [1] * len(i)))
            for row, i in zip(rows, ids, strict=True)
        ]
        longest = max(len(i) for i in ids)
        if not longest:
            raise ValueError("The rows hold no tokens: input_ids is empty in each of a batch.")
        width = -(-longest // self.multiple) * self.multiple
        padded = any(len(i) < width for i in ids)
        if padded and self.pad_token_id is None:
            blocks = f", in whole blocks of {self.multiple}," if self.multiple > 1 else ""
            raise ValueError(
                f"Rows have from {min(len(i) for i in ids)} to {longest} tokens{blocks} and there "
                "is no pad token; pack them to one length or set pad_token_id."
            )
        batch = {"input_ids": self._stack(ids, width, self.pad_token_id or 0)}
        if padded or not all(bool(mask.all()) for mask in masks):
            batch["attention_mask"] = self._stack([mask.long() for mask in masks], width, 0)
        labels = [_labels(row, i) for row, i in zip(rows, ids, strict=True)]
        if any(bool((label == CONTEXT).any()) for label in labels):
            batch["labels"] = self._stack(labels, width, CONTEXT)
        classes = next((k for k in ("class_labels", "label") if k in rows[0]), None)
        if classes is not None:
            labels = [whole_numbers(classes, row.get(classes)).reshape(-1) for row in rows]
            if any(len(label) != 1 for label in labels):
                raise ValueError(f"{classes} must be one class for each row, got {labels[0]}.")
            batch["class_labels"] = torch.cat(labels)
        return batch

    @classmethod
    def suited_to(
        cls,
        config: PreTrainedConfig,
        tokenizer: PreTrainedTokenizerBase | None,
        multiple: int = 1,
    ) -> TokenCollator:
        """One with the model's pad token, or else the tokenizer's."""
        tokens = [getattr(source, "pad_token_id", None) for source in (config, tokenizer)]
        return cls(next((token for token in tokens if token is not None), None), multiple)

    @staticmethod
    def _stack(rows: list[Tensor], length: int, fill: int) -> Tensor:
        return torch.stack(
            [torch.nn.functional.pad(row, (0, length - len(row)), value=fill) for row in rows]
        )


def whole_numbers(name: str, value: Any) -> Tensor:
    """What a row holds under a name, as int64.

    Raises:
        ValueError: for anything else than whole numbers.
    """
    try:
        given = torch.as_tensor(value)
        whole = given.long()
    except (TypeError, ValueError, RuntimeError):
        whole = None
    if whole is None or bool((whole != given).any()):
        shown = repr(value if len(repr(value)) < 80 else f"{value!r:.80}...")
        raise ValueError(f"{name} must hold whole numbers in every row, got {shown}.")
    return whole


def _labels(row: Mapping[str, Any], ids: Tensor) -> Tensor:
    """The tokens of a row (L,), -100 at those that are context."""
    labels = ids
    if row.get("labels") is not None:
        labels = torch.as_tensor(row["labels"], dtype=torch.int64).flatten()
        if labels.shape != ids.shape:
            raise ValueError(
                f"labels have {len(labels)} entries and input_ids {len(ids)}: one for each token "
                "(the class of a row is called class_labels)."
            )
        other = ((labels != ids) & (labels != CONTEXT)).nonzero()
        if len(other):
            at = int(other[0])
            raise ValueError(
                f"labels[{at}] is {int(labels[at])} where input_ids has {int(ids[at])}: labels are "
                f"the tokens themselves, or {CONTEXT} for context."
            )
    for name in ("completion_mask", "assistant_masks"):
        if row.get(name) is not None:
            trained = torch.as_tensor(row[name]).flatten().bool()
            if trained.shape != ids.shape:
                raise ValueError(
                    f"{name} has {len(trained)} entries and input_ids {len(ids)}: one for each "
                    "token."
                )
            labels = labels.masked_fill(~trained, CONTEXT)
    return labels
