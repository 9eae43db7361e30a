"""One mask: process, model and tokenizer name the same token."""

from __future__ import annotations

from typing import Any

from transformers.configuration_utils import PreTrainedConfig

from hf_ddistill.diffusion import Diffusion


def check_same_mask(
    diffusion: Diffusion, config: PreTrainedConfig, tokenizer: Any | None = None
) -> None:
    """Raise if two of process, model and tokenizer name different mask tokens.

    One that names none agrees with the others: a process without a mask, a model or a tokenizer
    that came without one.

    Args:
        diffusion: its process may have a mask.
        config: of the model; `mask_token_id` is looked at.
        tokenizer: likewise, where it is known.

    Raises:
        ValueError: with the masks that they name.
    """
    mask = diffusion.process.mask_token_id
    if mask is None:
        return
    named = {"the process": mask, "the model's config": getattr(config, "mask_token_id", None)}
    theirs = getattr(tokenizer, "mask_token_id", None)
    said = (
        f"the tokenizer (its {tokenizer.mask_token!r})" if theirs is not None else "the tokenizer"
    )
    named[said] = theirs
    known = {who: token for who, token in named.items() if token is not None}
    if len(set(known.values())) > 1:
        listed = ", ".join(f"{who} {token}" for who, token in known.items())
        raise ValueError(f"There must be one mask token, but the masks named are: {listed}.")
