"""Which token is the mask, by all that may say it, and a tokenizer that says the same.

K is the number of rows of the embeddings, the mask included.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase

#: The mask of tokenizers by the names that configurations give them; None: the one behind them.
_KNOWN = {"gpt2": None, "gpt2-large": None, "bert-base-uncased": 103, "text8": 4}
_SIZES = {30522: 103}  # bert-base-uncased, where nothing names it
MASK_TOKEN = "[MASK]"


def mask_of(
    config: Mapping[str, Any],
    vocab_size: int,
    tokenizer: PreTrainedTokenizerBase | None,
    given: int | None,
    source: str,
) -> int:
    """The mask token: what is given, the configuration and the tokenizer must name the same; where
    none of them does, that of a tokenizer whose name or size is known, else the last token.

    Raises:
        ValueError: if two differ, for one outside the vocabulary, and where the configuration names
            a tokenizer that is not known and not there.
    """
    said = (config.get(name) for name in ("mask_token_id", "mask_index"))
    entered = next((token for token in said if token is not None), None)
    named = {"--mask-token-id": given, "the configuration": entered}
    named["the tokenizer"] = None if tokenizer is None else tokenizer.mask_token_id
    known = {who: token for who, token in named.items() if token is not None}
    if len(set(known.values())) > 1:
        listed = ", ".join(f"{who} {token}" for who, token in known.items())
        raise ValueError(f"There must be one mask token, but the masks named are: {listed}.")
    mask = next(iter(known.values()), None)
    if mask is None:
        mask = _by_name(config, vocab_size, tokenizer, source)
    if isinstance(mask, bool) or not isinstance(mask, int) or not 0 <= mask < vocab_size:
        raise ValueError(
            f"The mask of {source}, token {mask!r}, must be one of its {vocab_size} tokens, from 0 "
            f"to {vocab_size - 1}."
        )
    return mask


def _by_name(
    config: Mapping[str, Any],
    vocab_size: int,
    tokenizer: PreTrainedTokenizerBase | None,
    source: str,
) -> int:
    last = vocab_size - 1
    if tokenizer is not None:
        if len(tokenizer) == vocab_size:
            raise ValueError(
                f"The tokenizer of {source} has a token for each of the {vocab_size} rows and none "
                "for the mask; say which one masks with --mask-token-id."
            )
        return last
    name = tokenizer_name(config)
    if name is None:
        return _SIZES.get(vocab_size, last)
    if name not in _KNOWN:
        raise ValueError(
            f"{source} was trained with the tokenizer {name!r}, whose mask is not known here; give "
            "it with --tokenizer, or say --mask-token-id."
        )
    mask = _KNOWN[name]
    return last if mask is None else mask


def tokenizer_name(config: Mapping[str, Any]) -> str | None:
    """The name of a tokenizer in the configuration of a training run."""
    for where, key in (("data", "tokenizer_name_or_path"), ("tokenizer", "name")):
        part = config.get(where)
        if isinstance(part, Mapping) and isinstance(part.get(key), str):
            return part[key].removeprefix("openai-community/").removeprefix("google-bert/")
    return None


def with_mask(
    tokenizer: PreTrainedTokenizerBase | None, vocab_size: int, mask: int | None, source: str
) -> PreTrainedTokenizerBase | None:
    """The tokenizer, its mask entered: the token of that number, or a new one behind its last.

    Args:
        tokenizer: changed in place; None stays None.
        vocab_size: K.
        mask: of the process; None for one without.
        source: for the error.

    Raises:
        ValueError: for a tokenizer of another vocabulary: one of K - 1 tokens lacks the last of K,
            any other is not what the network was trained with.
    """
    if tokenizer is None:
        return None
    size = len(tokenizer)
    if size not in (vocab_size, vocab_size - 1):
        raise ValueError(
            f"The tokenizer has {size} tokens and the network of {source} {vocab_size}; it must "
            f"have as many, or {vocab_size - 1} where the last row is the mask's or unused."
        )
    if mask is None or tokenizer.mask_token_id is not None:
        return tokenizer
    if mask == size:
        taken = tokenizer.convert_tokens_to_ids(MASK_TOKEN) not in (None, tokenizer.unk_token_id)
        tokenizer.add_special_tokens({"mask_token": "<|mask|>" if taken else MASK_TOKEN})
    else:
        tokenizer.mask_token = tokenizer.convert_ids_to_tokens(mask)
    return tokenizer
