"""What changes the logits of a call before tokens are decided: transformers' processors, and other
models that steer.

R rows of a canvas of C columns, n of them asked for in each row.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from hf_ddistill.decoding.logit_settings import Change, by_column
from hf_ddistill.decoding.plan import DecodingPlan
from hf_ddistill.decoding.reading import BlockReader
from hf_ddistill.decoding.window import Window
from hf_ddistill.linalg import require
from hf_ddistill.shapes import LOG_ZERO


@dataclass(frozen=True)
class ProxySteering:
    """Logits steered by what tuning did to a smaller model:

        logits + scale * (logits of the tuned small model - logits of the untuned one)

    Given to `generate(logits_processor=)`. All three models read the same canvas, each with its
    own keys and values kept, in the same blocks.

    References:
        Tuning Language Models by Proxy (2024), https://arxiv.org/abs/2401.08565

    Args:
        tuned: a `BlockDiffusionLM` with the steered model's tokens.
        untuned: the same before it was tuned.
        scale: 0 steers nothing.
    """

    tuned: Any
    untuned: Any
    scale: float = 1.0

    def __post_init__(self) -> None:
        sizes = [model.config.vocab_size for model in (self.tuned, self.untuned)]
        masks = [model.config.mask_token_id for model in (self.tuned, self.untuned)]
        if sizes[0] != sizes[1] or masks[0] != masks[1]:
            raise ValueError(
                "The tuned and the untuned model must share their tokens: they have vocab_size "
                f"{sizes[0]} and {sizes[1]}, mask_token_id {masks[0]} and {masks[1]}."
            )

    def change(self, reader: BlockReader) -> Change:
        """What is done to the logits of a reader.

        Raises:
            ValueError: if its model has other tokens.
        """
        theirs, ours = reader.model.config, self.tuned.config
        for name in ("vocab_size", "mask_token_id"):
            if getattr(theirs, name) != getattr(ours, name):
                raise ValueError(
                    f"The steered model has {name}={getattr(theirs, name)} and those that steer "
                    f"it {getattr(ours, name)}: all three must share their tokens."
                )
        tuned, untuned = (
            BlockReader(model.eval(), reader.real, reader.block_size, reader.cache)
            for model in (self.tuned, self.untuned)
        )

        def steered(ids: Tensor, places: Window, logits: Tensor) -> Tensor:
            return logits + self.scale * (tuned(ids, places) - untuned(ids, places))

        return steered


def changes(processors: Any, reader: BlockReader) -> list[Change]:  # noqa: ANN401 (one or many)
    """The steps from a model's logits to those that tokens are drawn from.

    Args:
        processors: None, a processor, or a list of them (such as a `LogitsProcessorList`), each a
            `ProxySteering` or a function of ids (rows, tokens) and scores (rows, K).
        reader: of the model that is decoded.

    Raises:
        ValueError: for a processor that asks for more than ids and scores.
    """
    if processors is None:
        return []
    many = processors if isinstance(processors, Iterable) else [processors]
    found = []
    for processor in many:
        if isinstance(processor, ProxySteering):
            found.append(processor.change(reader))
            continue
        needed = [
            name
            for name, value in inspect.signature(processor).parameters.items()
            if value.default is value.empty
            and value.kind in (value.POSITIONAL_ONLY, value.POSITIONAL_OR_KEYWORD)
        ]
        if len(needed) != 2:
            raise ValueError(
                f"A logits processor is given ids and scores, and {type(processor).__name__} takes "
                f"{', '.join(needed) or 'nothing'}."
            )
        found.append(partial(by_column, processor, reader.real))
    return found


@dataclass(frozen=True)
class Processing:
    """From the logits of a call to log p of the tokens that can be decided.

    Args:
        plan: of the decoding.
        steps: from a model's logits on.
        real: (B, C) bool, False at padding, of all rows.
        mask: the mask token, which is none of them.
    """

    plan: DecodingPlan
    steps: Sequence[Change]
    real: Tensor
    mask: int
    _totals: list[Tensor] = field(init=False, default_factory=list)

    def check(self) -> None:
        """Look at the logits of the calls since the last time.

        Raises:
            ValueError: for some that are NaN or infinite; on a device when decoding has ended.
        """
        if self._totals:
            require(torch.stack(self._totals).isfinite(), _broken)
            self._totals.clear()

    def __call__(
        self, ids: Tensor, places: Window, masked: Tensor, logits: Tensor, normal: bool = True
    ) -> Tensor:
        """log p (R, n, K) without the mask token, which is below `LOG_ZERO / 2` as is all that is
        barred; the logits are changed in place.

        Args:
            ids: (R, C).
            places: the n columns of each row.
            masked: (R, n) bool, True where a token is to be decided.
            logits: (R, n, K), of the model.
            normal: False for logits, whose likeliest token is the same.

        Raises:
            ValueError: where no token is left for an open place; on a device when decoding has
                ended.
        """
        if not self.plan.logits.remove_invalid:
            # A sum is not finite if one of its numbers is not, and much cheaper than to ask each.
            self._totals.append(logits.sum())
        for step in self.steps:
            logits = step(ids, places, logits)
        if self.plan.forbidden:
            logits = self.plan.forbidden.change(self.canvas(ids, places), places, masked, logits)
        logits.select(-1, self.mask).fill_(LOG_ZERO)
        if not (self.steps or self.plan.forbidden):
            # In place: a second tensor of this size would be new memory in each call.
            return torch.log_softmax(logits, -1, out=logits) if normal else logits
        require((logits.amax(-1) > LOG_ZERO / 2) | ~masked, _barred)
        return logits.log_softmax(-1).clamp_min(LOG_ZERO)

    def canvas(self, ids: Tensor, places: Window) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (R, C), where they are real, and where one is to be decided."""
        real = places.rows_of(self.real)
        return ids, real, (ids == self.mask) & real


def _broken(wrong: int, total: int) -> str:
    return (
        "The model gives logits that are NaN or infinite: its weights or its precision are "
        "broken (remove_invalid_values=True decodes in spite of it)."
    )


def _barred(wrong: int, total: int) -> str:
    return (
        "No token is left for a position: settings that bar tokens (suppress_tokens, "
        "bad_words_ids, no_repeat_ngram_size, ...) and processors bar all of them there."
    )


__all__ = ["Processing", "ProxySteering", "changes"]
