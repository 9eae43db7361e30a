"""What is given of the samples, as tokens: prompts of text as the tokenizer puts them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.tokenization_utils_base import PreTrainedTokenizerBase


def beginnings(
    tokenizer: PreTrainedTokenizerBase | None,
    prompt: str | list[str] | None,
    input_ids: Tensor | None,
    *,
    whole: bool = False,
) -> list[Tensor]:
    """The given tokens of each row: of a prompt as `encoded` gives them, or the rows of
    `input_ids`, (P,) or (n, P); one empty row if there is neither."""
    if prompt is not None:
        return encoded(tokenizer, prompt, whole=whole)
    if input_ids is None:
        return [torch.zeros(0, dtype=torch.int64)]
    if not isinstance(input_ids, Tensor):
        raise ValueError(f"`input_ids` must be a tensor, got {type(input_ids).__name__}.")
    if input_ids.dtype != torch.int64 or input_ids.ndim not in (1, 2):
        raise ValueError(
            "`input_ids` must be int64 of shape (p,) or (n, p), "
            f"got {input_ids.dtype} of shape {tuple(input_ids.shape)}."
        )
    return list(input_ids.cpu().reshape(-1, input_ids.shape[-1]))


def encoded(
    tokenizer: PreTrainedTokenizerBase, prompt: str | list[str], *, whole: bool
) -> list[Tensor]:
    """The tokens of each prompt, int64 (P,).

    Args:
        tokenizer: that puts special tokens where it always does.
        prompt: one or some.
        whole: whether all of them stay, as in `generate(**tokenizer(prompt))`. Else those that it
            puts at the end are left out, since more is to follow: of `[CLS] a b [SEP]` the
            beginning `[CLS] a b` stays.
    """
    prompts = [prompt] if isinstance(prompt, str) else prompt
    found = read(tokenizer, prompts, return_special_tokens_mask=not whole)
    rows = found["input_ids"]
    if not whole:
        ends = (len(mask) - mask[::-1].index(0) if 0 in mask else 0 for mask in _added(found))
        rows = [ids[:end] for ids, end in zip(rows, ends, strict=True)]
    return [torch.tensor(ids, dtype=torch.int64) for ids in rows]


def read(tokenizer: PreTrainedTokenizerBase, texts: list[str], **how: Any) -> Any:
    """What a tokenizer makes of texts.

    Raises:
        ValueError: for a text, or for characters in it, of which one without an unknown token makes
            nothing.
    """
    try:
        found = tokenizer(texts, **how)
        if tokenizer.unk_token_id is None:
            _check_characters(tokenizer, texts)
    except Exception as error:
        # What the library tokenizers raises for an unknown word is a bare Exception.
        if type(error) is not Exception:
            raise
        raise ValueError(f"The tokenizer has no token for a part of {texts}: {error}.") from error
    return found


def _check_characters(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> None:
    """Raise for characters that byte pairs would leave out: none of them begins there."""
    seen = sorted({c for text in texts for c in text if not c.isspace()})
    lost = []
    for character in seen:
        try:
            ids = tokenizer(character, add_special_tokens=False)["input_ids"]
        except Exception as error:
            if type(error) is not Exception:
                raise
            return  # a tokenizer of words: it has read them
        lost += [] if ids else [character]
    if lost:
        more = f" and {len(lost) - 6} more" if len(lost) > 6 else ""
        raise ValueError(
            f"The tokenizer has no token for {', '.join(map(repr, lost[:6]))}{more}, nor one for "
            "what is unknown: the model would not see it; leave it out."
        )


def _added(found: dict[str, list[list[int]]]) -> list[list[int]]:
    """1 where a token is not of the text."""
    return found["special_tokens_mask"]


__all__ = ["beginnings", "encoded", "read"]
