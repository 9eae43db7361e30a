"""Tokenizers, and which token is the mask: process, model and tokenizer must name the same one."""

from __future__ import annotations

from collections.abc import Mapping

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_ddistill.models import unwrapped
from hf_ddistill.models.held import enter_held


def name_mask(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, given: int | None
) -> None:
    """Enter the mask in the config of a model that does not say which token it is, and what is held
    of its tokenizer's special tokens, see `Held`.

    Args:
        model: a masked LM; perhaps one that says itself what masks, or that nothing does.
        tokenizer: of the model, if it has one.
        given: by the user.

    Raises:
        ValueError: if two of them name different tokens.
    """
    config = unwrapped(model).config
    entry = getattr(config, "discrete_diffusion", None) or {}
    process = entry.get("process")
    named = {
        "--mask-token-id": given,
        "its process": process.get("mask_token_id") if isinstance(process, Mapping) else None,
        "its config": getattr(config, "mask_token_id", None),
    }
    if process is None or named["its process"] is not None:
        named["its tokenizer"] = None if tokenizer is None else tokenizer.mask_token_id
    known = {who: token for who, token in named.items() if token is not None}
    if len(set(known.values())) > 1:
        said = ", ".join(f"{who} {token}" for who, token in known.items())
        raise ValueError(f"The mask of {config.name_or_path or 'the model'} must be one: {said}.")
    if given is not None and process is not None and named["its process"] is None:
        raise ValueError(
            f"--mask-token-id: the process of {config.name_or_path} has no masks: {process}."
        )
    if known and process is None:
        token = next(iter(known.values()))
        if token >= config.vocab_size:
            raise ValueError(
                f"The mask {token} is no token of the model, which has {config.vocab_size}."
            )
        config.mask_token_id = token
        enter_held(config, tokenizer)


def give_mask(tokenizer: PreTrainedTokenizerBase, given: int | None) -> int | None:
    """The mask of the tokenizer of a model that is to be made; it takes on the one that is given.

    Args:
        tokenizer: perhaps without a mask. One that is given becomes its mask, as a new token where
            it stands right behind its vocabulary.
        given: the token; None for the tokenizer's own.

    Raises:
        ValueError: if it has another mask, or no such token.
    """
    own, size = tokenizer.mask_token_id, vocabulary(tokenizer)
    if given is None or given == own:
        return own
    if own is not None:
        raise ValueError(
            f"--mask-token-id={given}, but the tokenizer's mask is {own} ({tokenizer.mask_token})."
        )
    if given > size:
        raise ValueError(
            f"--mask-token-id={given} is no token of the tokenizer, which has {size}; {size} adds "
            "one."
        )
    token = tokenizer.convert_ids_to_tokens(given) if given < size else "<mask>"
    if token is None or given == size and token in tokenizer.get_vocab():
        raise ValueError(f"--mask-token-id={given} is no token of the tokenizer.")
    tokenizer.add_special_tokens({"mask_token": token})
    if tokenizer.mask_token_id != given:
        raise ValueError(
            f"--mask-token-id={given}: the tokenizer puts a new mask at {tokenizer.mask_token_id}."
        )
    return given


def vocabulary(tokenizer: PreTrainedTokenizerBase) -> int:
    """K: one more than the highest id, which is more than there are tokens where ids are free."""
    return max(tokenizer.get_vocab().values()) + 1
