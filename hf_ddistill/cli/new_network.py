"""The network that `hf-ddistill teacher` makes, of the size that its data and tokenizer ask for."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_ddistill.cli.data import LENGTH, highest, longest
from hf_ddistill.cli.members import build_diffusion, noise_tokens
from hf_ddistill.cli.options.teacher import TeacherOptions
from hf_ddistill.cli.tokens import give_mask, vocabulary
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.models import (
    BlockDiffusionLM,
    DDiTConfig,
    DDiTForDiscreteDiffusion,
    unwrapped,
)
from hf_ddistill.models.made_tokenizers import MADE

#: A vocabulary that is not asked for is no larger: a greater number in the data is hardly a token.
MOST_TOKENS = 2**22


def new_network(
    options: TeacherOptions, data: Any, tokenizer: PreTrainedTokenizerBase | None
) -> tuple[DDiTForDiscreteDiffusion, Diffusion]:
    """A DDiT with fresh weights, and what it is to be trained for.

    Raises:
        ValueError: where vocabulary, length or mask cannot be told.
    """
    if options.data.startswith("digits"):
        options.token_shape = options.token_shape or [8, 8]
    needs_noise = noise_tokens(options.process) > 0
    if options.mask_token_id is not None and not needs_noise:
        raise ValueError(f"--mask-token-id: --process {options.process} has no masks.")
    mask = options.mask_token_id
    if tokenizer is not None and needs_noise:
        mask = give_mask(tokenizer, mask)
        if mask is None:
            raise ValueError(
                f"The tokenizer has no mask token, which the process {options.process} needs; "
                f"--mask-token-id {vocabulary(tokenizer)} adds one."
            )
    size, length, classes = _sizes(options, data, tokenizer)
    diffusion = build_diffusion(options.process, options.schedule, size, mask)
    special = ("pad_token_id", "bos_token_id", "eos_token_id")
    network = DDiTForDiscreteDiffusion(
        DDiTConfig(
            vocab_size=diffusion.vocab_size,
            hidden_size=options.hidden_size,
            num_hidden_layers=options.layers,
            num_attention_heads=options.heads,
            max_position_embeddings=length,
            token_shape=options.token_shape,
            position_embedding=options.position_embedding,
            # Masks alone tell the time of a masked state; other noise does not show.
            time_conditioning=not diffusion.reveals,
            num_classes=classes,
            mask_token_id=diffusion.process.mask_token_id,
            **{name: getattr(tokenizer, name, None) for name in special},
        )
    )
    return network.to(getattr(torch, options.dtype)), diffusion


def bound_of(network: PreTrainedModel, label_dropout: float | None = None) -> dict[str, Any]:
    """The objective that is the likelihood bound of a network that exists.

    Args:
        network: any that can be trained.
        label_dropout: share of the labels that are left out, where there are some; the objective's
            own if not given.
    """
    if isinstance(unwrapped(network), BlockDiffusionLM):
        return {"type": "bd3lm"}
    return {"type": "nelbo"} | ({} if label_dropout is None else {"label_dropout": label_dropout})


def _sizes(
    options: TeacherOptions, data: Any, tokenizer: PreTrainedTokenizerBase | None
) -> tuple[int, int, int]:
    """K with the noise, L and the number of classes."""
    first = next(iter(data))
    classes = _classes(options, data, first)
    if "input_ids" not in first:
        if tokenizer is None:
            raise ValueError(f"Text needs --tokenizer: a folder or id, or {MADE}, made of it.")
        if options.vocab_size is not None:
            raise ValueError("--vocab-size: that of text is the tokenizer's.")
        return vocabulary(tokenizer), options.max_length or LENGTH, classes
    size = options.vocab_size
    if size is None and tokenizer is not None:
        size = vocabulary(tokenizer)
    if size is None and options.streaming:
        raise ValueError("A stream of tokens needs --vocab-size, noise included, or --tokenizer.")
    if size is None:
        most, given = highest(data), options.mask_token_id
        if most >= MOST_TOKENS:
            raise ValueError(
                f"The data hold token {most:,}; a vocabulary of that size is to be asked for, with "
                "--vocab-size."
            )
        size = most + 1 + noise_tokens(options.process) if given is None else max(most, given) + 1
    return size, options.max_length or longest(data), classes


def _classes(options: TeacherOptions, data: Any, first: dict[str, Any]) -> int:
    if not options.class_conditional:
        return 0
    label = next((key for key in ("class_labels", "label") if key in first), None)
    if label is None:
        raise ValueError("--class-conditional needs a column 'label' in the data.")
    labels = [row[label] for row in data]
    wrong = next((each for each in labels if not isinstance(each, int) or each < 0), None)
    if wrong is not None:
        raise ValueError(f"--class-conditional: a label is a class, 0, 1, ...; got {wrong!r}.")
    return max(labels) + 1
