"""What a batch must hold: clean tokens of the vocabulary; and which of them are context."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedConfig

from hf_ddistill.diffusion import Diffusion
from hf_ddistill.models.held import Held
from hf_ddistill.training.data import whole_numbers
from hf_ddistill.training.texts import CONTEXT

#: Rows of a data set in memory that are looked at before the training.
LOOKED_AT = 256
LOOKED_FOR = {"input_ids", "attention_mask"}


@dataclass(frozen=True)
class CleanCollator:
    """A collator whose batches are looked at, where they are still on the CPU.

    Args:
        collator: from rows to a batch.
        diffusion: whose noise tokens no data hold: a mask in the data would be taken for a token
            that was noised.
        held: tokens of the model that are context wherever they stand.
        classes: that the model knows; 0 for a model that takes none.
        length: the most tokens of a row, if anyone says: a row of tokens is not cut, as a text is,
            since nobody knows what its end is.

    Raises:
        ValueError: for a noise token, or one outside the vocabulary, that is no padding; for a
            class that the model does not know; for a row that is too long.
    """

    collator: Callable[[Sequence[Mapping[str, Any]]], dict[str, Tensor]]
    diffusion: Diffusion
    held: Held | None = None
    classes: int = 0
    length: int | None = None

    @classmethod
    def of(
        cls,
        collator: Callable[[Sequence[Mapping[str, Any]]], dict[str, Tensor]],
        diffusion: Diffusion,
        config: PreTrainedConfig,
        length: int | None = None,
    ) -> CleanCollator:
        """That of a model."""
        classes = getattr(config, "num_classes", None) or 0
        return cls(collator, diffusion, Held.of(config), classes, length)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        batch = self.collator(rows)
        if self.classes and isinstance(batch.get("class_labels"), Tensor):
            labels = batch["class_labels"]
            wrong = labels[(labels < -1) | (labels >= self.classes)]
            if len(wrong):
                raise ValueError(
                    f"The data hold the class {int(wrong[0])}, and the model knows classes from 0 "
                    f"to {self.classes - 1} (num_classes={self.classes}), and -1 for none."
                )
        if isinstance(batch.get("input_ids"), Tensor):
            self._look(batch["input_ids"], batch.get("attention_mask"))
            if self.held is not None:
                # Padding, too, is then seen as it is: some models count the masks of a row.
                given = self.held.where(batch["input_ids"])
                if batch.get("attention_mask") is not None:
                    given = given | ~batch["attention_mask"].bool()
                labels = batch.get("labels", batch["input_ids"])
                batch["labels"] = labels.masked_fill(given, CONTEXT)
        return batch

    def first(self, data: object) -> None:
        """Look at the first rows of a data set, or of each of several, that is in memory."""
        for part in data.values() if isinstance(data, Mapping) else (data,):
            if isinstance(part, Dataset) and "input_ids" in part.column_names:
                for row in islice(part, LOOKED_AT):
                    batch = {
                        name: whole_numbers(name, row[name]).reshape(1, -1)
                        for name in LOOKED_FOR & {*row}
                    }
                    self._look(batch["input_ids"], batch.get("attention_mask"))

    def check_trained(self, data: object, given: int | None) -> None:
        """Raise where none of the first rows of a data set in memory has a token to train on.

        Args:
            data: rows, or several data sets by name.
            given: the first tokens of each row are context in any case.
        """
        for part in data.values() if isinstance(data, Mapping) else (data,):
            if not (isinstance(part, Dataset) and "input_ids" in part.column_names):
                continue
            rows = min(len(part), LOOKED_AT)
            if not any(bool(trained_in(self([row]), given).any()) for row in islice(part, rows)):
                first = f", and prompt_length={given} of each row" if given else ""
                raise ValueError(
                    f"There is nothing to train on in the first {rows} rows: all of their tokens "
                    f"are context (labels of {CONTEXT}, special tokens of the model{first})."
                )

    def _look(self, ids: Tensor, real: Tensor | None) -> None:
        real = torch.ones_like(ids, dtype=torch.bool) if real is None else real.bool()
        if self.length is not None and (longest := int(real.sum(1).max())) > self.length:
            raise ValueError(
                f"The data hold a row of {longest} tokens, and max_length={self.length}: rows of "
                "input_ids are not cut, as texts are; cut them, or leave max_length out."
            )
        size, noise = self.diffusion.vocab_size, self.diffusion.process.noise_tokens
        outside = real & ((ids < 0) | (ids >= size))
        noisy = real & torch.isin(ids, torch.tensor(noise, dtype=ids.dtype))
        for wrong, why in (
            (outside, f"and the vocabulary has tokens from 0 to {size - 1}"),
            (noisy, f"a mask or noise token of the process {self.diffusion.process.id!r}, which "
                    "data never hold"),
        ):  # fmt: skip
            if bool(wrong.any()):
                row, position = wrong.nonzero()[0].tolist()
                raise ValueError(
                    f"The data hold token {int(ids[row, position])} (at position {position} of a "
                    f"row), {why}: give the model a vocabulary with a token more, or mend the data."
                )


def real_of(inputs: Mapping[str, Tensor]) -> Tensor | None:
    """(B, L), False at the padding of a batch; None where there is none."""
    mask = inputs.get("attention_mask")
    return None if mask is None else mask.bool()


def context_of(inputs: Mapping[str, Tensor], given: int | None) -> Tensor | None:
    """(B, L), the tokens of a batch that are given, by their labels or as the first ones of each
    row; None for none.

    Args:
        inputs: `input_ids` (B, L); `labels` (B, L), -100 at context; `attention_mask` (B, L).
        given: how many tokens of each row are given in any case.
    """
    labels, real = inputs.get("labels"), real_of(inputs)
    context = None if labels is None else labels == CONTEXT
    if given:
        real = torch.ones_like(inputs["input_ids"]) if real is None else real.long()
        first = real.cumsum(1) <= given
        context = first if context is None else context | first
    return context


def trained_in(inputs: Mapping[str, Tensor], given: int | None) -> Tensor:
    """(B, L), the tokens of a batch that losses are of; see `context_of`."""
    real, context = real_of(inputs), context_of(inputs, given)
    if real is None:
        real = torch.ones_like(inputs["input_ids"], dtype=torch.bool)
    return real if context is None else real & ~context
