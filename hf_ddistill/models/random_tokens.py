"""Masked language models that were trained on random tokens too, as BERT and its kin were.

Of the tokens that such a model had to guess some were masks, some were replaced by random ones and
some were kept, so that it knows of tokens which are wrong. Its process is then a mixture that stays
the same, P_0t = alpha I + (1 - alpha) 1 ((1 - w) e_mask + w unif)^T, its output that of the other
tokens with what it has seen of its own (`GivenOthers`).
"""

from __future__ import annotations

import math

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_ddistill.diffusion import Diffusion
from hf_ddistill.models.held import Held, enter_held
from hf_ddistill.parameterizations import GivenOthers
from hf_ddistill.processes import Hybrid
from hf_ddistill.schedules import LogLinear


def enter_random_tokens(
    model: PreTrainedModel,
    share: float,
    tokenizer: PreTrainedTokenizerBase | None = None,
    seen: float | None = None,
) -> None:
    """Enter in the configuration of a masked language model that some of its noise is random
    tokens; what it holds (`Held`) is none of them.

    References: Devlin et al., BERT, 2018, arXiv:1810.04805 (3.1).

    Args:
        model: without a process in its configuration.
        share: w, of noise that is random tokens; the rest is masks.
        tokenizer: of the model, where its configuration does not say which token is the mask and
            what is held.
        seen: of `GivenOthers`; log(1 + n) of n tokens that may be drawn, as of a training that kept
            as many tokens as it replaced, if not given.

    Raises:
        ValueError: for a model that says itself what it was trained for, one without a mask, and a
            share that is not in (0, 1).
    """
    config = model.config
    name = config.name_or_path or type(model).__name__
    if getattr(config, "discrete_diffusion", None):
        raise ValueError(
            f"{name} says in config.discrete_diffusion which noise it was trained for, so that a "
            "share of random tokens cannot be chosen."
        )
    if tokenizer is not None:
        enter_held(config, tokenizer)
        if getattr(config, "mask_token_id", None) is None:
            config.mask_token_id = tokenizer.mask_token_id
    if getattr(config, "mask_token_id", None) is None:
        raise ValueError(f"{name} says nowhere which token is the mask.")
    if not 0 < share < 1:
        raise ValueError(f"The share of random tokens must lie in (0, 1), got {share}.")
    size, held = config.vocab_size, Held.of(config)
    left_out = [] if held is None else [k for k in held.tokens if k != config.mask_token_id]
    process = Hybrid(size, share, config.mask_token_id, constant=True, left_out=left_out)
    seen = math.log1p(size - 1 - len(left_out)) if seen is None else seen
    config.discrete_diffusion = {
        **Diffusion(process, LogLinear()).to_config(),
        "parameterization": GivenOthers(seen).to_config(),
    }
