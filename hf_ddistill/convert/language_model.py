"""Diffusion language models whose networks are those of causal ones in transformers.

What all folders of a kind have in common is a `Form`, what the configuration of one says a
`Reading`; `read_language_model` makes a `BlockDiffusionLM` of both. Weights are taken over as they
are, not copied. The way back is in `written_language_model`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from hf_ddistill.convert.bounds import check_numbers
from hf_ddistill.convert.made_of import made_of
from hf_ddistill.convert.renaming import Renaming, check_same
from hf_ddistill.convert.source import check_floating, read_object, weights
from hf_ddistill.convert.source_tokenizer import read_tokenizer
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.models import (
    BlockDiffusionConfig,
    BlockDiffusionGenerationConfig,
    BlockDiffusionLM,
    check_same_mask,
)
from hf_ddistill.models.loading import complete
from hf_ddistill.processes import Absorbing
from hf_ddistill.schedules import LogLinear

#: Names as transformers has them.
SAME = Renaming(())
#: The special tokens that a configuration may name.
SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")


@dataclass(frozen=True)
class Form:
    """What all folders of one kind have in common.

    Args:
        kind: what the errors call it.
        text: of the causal language model with the same network, the class of its configuration.
        full: whether its attention is full; else it is of blocks.
        shift_logits: whether the output at i - 1 speaks of token i.
        causal_context: whether finished blocks are read causally.
        names: of its weights, to those of the causal language model.
        renamed: whether transformers renames the weights itself.
        usual_mask: the token that masks where neither configuration nor tokenizer names one.
        dtype_field: the field of a configuration that names the dtype.
    """

    kind: str
    text: type[PreTrainedConfig]
    full: bool = False
    shift_logits: bool = False
    causal_context: bool = False
    names: Renaming = SAME
    renamed: bool = False
    usual_mask: int | None = None
    dtype_field: str = "torch_dtype"


@dataclass(frozen=True)
class Reading:
    """What the configuration of one folder says.

    Args:
        text: the configuration of the causal language model with the same network.
        mask_token_id: the token that masks; None for the tokenizer's.
        block_size: of the attention; the window for full attention.
        decoding: settings of `generate`, as the authors decode.
    """

    text: PreTrainedConfig
    mask_token_id: int | None
    block_size: int
    decoding: Mapping[str, Any] = field(default_factory=dict)


def read_language_model(
    source: str | Path, form: Form, reading: Reading
) -> tuple[BlockDiffusionLM, PreTrainedTokenizerBase | None]:
    """The model and the tokenizer of a folder, of which nothing further must be said.

    Args:
        source: the folder.
        form: of its kind.
        reading: of its configuration.

    Raises:
        ValueError: for weights that do not fit, grouped, or that cannot be read; if tokenizer and
            model name different masks, or the tokenizer has more tokens than the model.
    """
    text = reading.text
    for name in SPECIAL:
        if isinstance(token := getattr(text, name, None), int) and token >= text.vocab_size:
            raise ValueError(
                f"The config.json of {source} has {name}={token}, which is none of its "
                f"{text.vocab_size} tokens."
            )
    tokenizer = read_tokenizer(source, text)
    mask = _mask(source, form, reading, tokenizer)
    lm = _causal_lm(source, form, reading)
    diffusion = Diffusion(Absorbing(text.vocab_size, mask), LogLinear())
    config = BlockDiffusionConfig(
        text_config=copy.deepcopy(lm.config),
        block_size=reading.block_size,
        mask_token_id=mask,
        shift_logits=form.shift_logits,
        causal_context=form.causal_context,
        discrete_diffusion={**diffusion.to_config(), "parameterization": "subs"},
    )
    model = BlockDiffusionLM(config, lm)
    ends = {name: value for name, value in _special(source, text).items() if value is not None}
    model.generation_config = BlockDiffusionGenerationConfig(**ends, **reading.decoding)
    if tokenizer is not None:
        _name_mask(tokenizer, mask)
        check_same_mask(diffusion, config, tokenizer)
    return model.eval(), tokenizer


def _causal_lm(source: str | Path, form: Form, reading: Reading) -> PreTrainedModel:
    """The network, with the tensors of the files themselves."""
    text = reading.text
    # Older versions of transformers saved the frequencies, which the configuration says.
    read = {k: v for k, v in weights(source).items() if not k.endswith("rotary_emb.inv_freq")}
    check_floating(read, str(source))
    state = form.names.ours(read)
    kind = MODEL_FOR_CAUSAL_LM_MAPPING[form.text]
    _check_tied(text, state, str(source))
    if form.renamed:
        check_numbers(lambda: kind(text), source)
    else:
        _check_weights(form, text, state, str(source))
    how = {"config": text, "state_dict": state, "dtype": _dtype(state), "strict": True}
    with made_of(source):
        return complete(kind, None, str(source), **how)


def _mask(
    source: str | Path, form: Form, reading: Reading, tokenizer: PreTrainedTokenizerBase | None
) -> int:
    """The token that masks, which is a row of the embeddings, as all tokens are."""
    rows = reading.text.vocab_size
    if tokenizer is not None and len(tokenizer) > rows:
        raise ValueError(
            f"The tokenizer of {source} has {len(tokenizer)} tokens, and its model {rows} "
            "embeddings: they do not belong together."
        )
    theirs = None if tokenizer is None else tokenizer.mask_token_id
    named = (reading.mask_token_id, theirs, form.usual_mask)
    mask = next((token for token in named if token is not None), None)
    if mask is None:
        raise ValueError(
            f"Neither the config.json of {source} nor a tokenizer names the mask token; give "
            "mask_token_id (--mask-token-id)."
        )
    if mask >= rows:
        raise ValueError(f"The mask token {mask} of {source} is no row of its {rows} embeddings.")
    return mask


def _check_weights(
    form: Form, text: PreTrainedConfig, state: Mapping[str, Tensor], source: str
) -> None:
    with torch.device("meta"), made_of(source):
        model = MODEL_FOR_CAUSAL_LM_MAPPING[form.text](text)
    wanted = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in state.items()}
    if text.tie_word_embeddings:
        found.setdefault("lm_head.weight", found.get("model.embed_tokens.weight", ()))
    check_same(found, wanted, f"{source} is no {form.kind} of its sizes")


def _check_tied(text: PreTrainedConfig, state: Mapping[str, Tensor], source: str) -> None:
    """Raise where a head that is called tied is another one than the embeddings."""
    head, table = (state.get(f"{key}.weight") for key in ("lm_head", "model.embed_tokens"))
    if text.tie_word_embeddings and head is not None and table is not None:
        if head.data_ptr() != table.data_ptr() and not torch.equal(head, table):
            raise ValueError(
                f"The weights of {source} have a head of their own, and its config.json says that "
                "the embeddings are the head (tie_word_embeddings): one of the two is wrong."
            )


def _dtype(state: Mapping[str, Tensor]) -> torch.dtype:
    """That of most numbers: of a model in half precision single tensors may be in float32."""
    sizes: dict[torch.dtype, int] = {}
    for value in state.values():
        if value.is_floating_point():
            sizes[value.dtype] = sizes.get(value.dtype, 0) + value.numel()
    return max(sizes, key=lambda dtype: sizes[dtype], default=torch.float32)


def _special(source: str | Path, text: PreTrainedConfig) -> dict[str, Any]:
    """Beginning, end and padding, of the generation's configuration or else the model's."""
    given = read_object(Path(source) / "generation_config.json")
    return {name: given.get(name, getattr(text, name, None)) for name in SPECIAL}


def _name_mask(tokenizer: PreTrainedTokenizerBase, mask: int) -> None:
    """The token of that number is the tokenizer's mask, where it names none."""
    if tokenizer.mask_token_id is None and mask < len(tokenizer):
        token = tokenizer.convert_ids_to_tokens(mask)
        if token is not None:
            tokenizer.mask_token = token
