"""The text of samples: up to their first end token."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import Tensor
from transformers.configuration_utils import PreTrainedConfig
from transformers.tokenization_utils_base import PreTrainedTokenizerBase


def end_tokens(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The tokens that end a text: those that model and tokenizer name as the end of a sequence, or
    the separator of a tokenizer that names none, such as BERT's."""
    ends = {tokenizer.eos_token_id, *_listed(getattr(config, "eos_token_id", None))} - {None}
    return frozenset(ends or {tokenizer.sep_token_id} - {None})


def texts_of(
    sequences: Tensor,
    given: Collection[int],
    ends: frozenset[int],
    tokenizer: PreTrainedTokenizerBase,
) -> list[str]:
    """Each sample as text, without special tokens, up to its first end token.

    What is given at the beginning stays, with the end tokens in it visible: in a prompt of several
    turns they end a turn and not the text. So does a first token that begins a text, where the same
    token also ends one.

    Args:
        sequences: (B, L).
        given: of each row, how many tokens of its beginning are given.
        ends: tokens that end a text.
        tokenizer: decodes.
    """
    texts = []
    for ids, fixed in zip(sequences.tolist(), given, strict=True):
        start = max(fixed, int(ids[0] == tokenizer.bos_token_id))
        end = next((i for i in range(start, len(ids)) if ids[i] in ends), len(ids))
        kept = ids[:end]
        if kept and kept[0] == tokenizer.bos_token_id:
            kept = kept[1:]
        texts.append(_visible(kept, ends, tokenizer))
    return texts


def _visible(ids: list[int], ends: frozenset[int], tokenizer: PreTrainedTokenizerBase) -> str:
    """Decoded without special tokens, those apart that end a text."""
    piece, text = [], ""
    for token in ids:
        if token in ends:
            text += tokenizer.decode(piece, skip_special_tokens=True)
            text += tokenizer.convert_ids_to_tokens(token)
            piece = []
        else:
            piece.append(token)
    return text + tokenizer.decode(piece, skip_special_tokens=True)


def _listed(token: Any) -> list[Any]:
    return list(token) if isinstance(token, list | tuple) else [token]
