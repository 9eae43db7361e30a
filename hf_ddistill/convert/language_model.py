"""Diffusion language models whose networks are those of causal ones in transformers.

What a converter knows of a folder is a `Reading`; `read_language_model` makes a `BlockDiffusionLM`
of it, `write_weights` goes back. Weights are taken over as they are, not copied.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from torch import Tensor
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

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
_SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")


@dataclass(frozen=True)
class Reading:
    """What the configuration of a folder says.

    Args:
        kind: what the errors call it.
        text: the configuration of the causal language model with the same network.
        mask_token_id: the token that masks; None for the tokenizer's.
        block_size: of the attention; the window for full attention.
        shift_logits: whether the output at i - 1 speaks of token i.
        causal_context: whether finished blocks are read causally.
        names: of its weights, to those of the causal language model.
        renamed: whether transformers renames the weights itself.
        decoding: settings of `generate`, as the authors decode.
        usual_mask: the token that masks where neither configuration nor tokenizer names one.
    """

    kind: str
    text: PreTrainedConfig
    mask_token_id: int | None
    block_size: int
    shift_logits: bool = False
    causal_context: bool = False
    names: Renaming = SAME
    renamed: bool = False
    decoding: Mapping[str, Any] = field(default_factory=dict)
    usual_mask: int | None = None


def read_language_model(
    source: str | Path, reading: Reading
) -> tuple[BlockDiffusionLM, PreTrainedTokenizerBase | None]:
    """The model and the tokenizer of a folder, of which nothing further must be said.

    Args:
        source: the folder.
        reading: of its configuration.

    Raises:
        ValueError: for weights that do not fit, grouped, or that cannot be read; if tokenizer and
            model name different masks, or the tokenizer has more tokens than the model.
    """
    text = reading.text
    for name in _SPECIAL:
        if isinstance(token := getattr(text, name, None), int) and token >= text.vocab_size:
            raise ValueError(
                f"The config.json of {source} has {name}={token}, which is none of its "
                f"{text.vocab_size} tokens."
            )
    tokenizer = read_tokenizer(source, text)
    mask = _mask(source, reading, tokenizer)
    lm = _causal_lm(source, reading)
    diffusion = Diffusion(Absorbing(text.vocab_size, mask), LogLinear())
    config = BlockDiffusionConfig(
        text_config=copy.deepcopy(lm.config),
        block_size=reading.block_size,
        mask_token_id=mask,
        shift_logits=reading.shift_logits,
        causal_context=reading.causal_context,
        discrete_diffusion={**diffusion.to_config(), "parameterization": "subs"},
    )
    model = BlockDiffusionLM(config, lm)
    ends = {name: value for name, value in _special(source, text).items() if value is not None}
    model.generation_config = BlockDiffusionGenerationConfig(**ends, **reading.decoding)
    if tokenizer is not None:
        _name_mask(tokenizer, mask)
        check_same_mask(diffusion, config, tokenizer)
    return model.eval(), tokenizer


def language_model_of(model: PreTrainedModel, kind: str, text_type: str) -> PreTrainedModel:
    """The causal language model in one of ours, where a kind of folder can hold it.

    Args:
        model: ours.
        kind: the name of the form, for the errors.
        text_type: type of the causal language model that it is isomorphic to.

    Raises:
        ValueError: with what the form has no place for.
    """
    if not isinstance(model, BlockDiffusionLM):
        raise ValueError(
            f"{type(model).__name__} is no block-diffusion language model, which alone can be "
            f"written as {kind}."
        )
    if model.config.noise_dim:
        raise ValueError(f"noise_dim={model.config.noise_dim}: {kind} has no input for noise.")
    if model.config.vocab_size != model.lm.config.vocab_size:
        raise ValueError(
            f"The model has {model.config.vocab_size} tokens and {model.lm.config.vocab_size} "
            f"embeddings; {kind} has as many of both."
        )
    found = model.lm.config.model_type
    if found != text_type:
        raise ValueError(
            f"The student is a {found} network, and {kind} a {text_type} one: no renaming makes "
            "one of the other."
        )
    return model.lm


def check_reading(
    model: BlockDiffusionLM, kind: str, *, full: bool, shift: bool, causal_context: bool = False
) -> None:
    """Raise unless a model's attention and the reading of its logits are those of a form.

    Args:
        model: ours.
        kind: the name of the form, for the errors.
        full: whether its attention is full.
        shift: whether its output at i - 1 speaks of token i.
        causal_context: whether it reads finished blocks causally.
    """
    config = model.config
    if config.causal_context != causal_context:
        own, other = "causally", "in both directions"
        own, other = (own, other) if config.causal_context else (other, own)
        raise ValueError(f"The student reads finished blocks {own}, and {kind} {other}.")
    if full and not model.is_full(config.block_size):
        raise ValueError(
            f"The student attends in blocks of {config.block_size} tokens, and {kind} has full "
            "attention."
        )
    if not full and model.is_full(config.block_size):
        raise ValueError(f"The student has full attention, and {kind} attends in blocks.")
    if config.shift_logits != shift:
        own, other = ("i - 1", "i") if config.shift_logits else ("i", "i - 1")
        raise ValueError(
            f"The student's output at {own} speaks of token i, that of {kind} the one at {other}."
        )


def write_weights(
    lm: PreTrainedModel, folder: str | Path, config: Mapping[str, Any], names: Renaming = SAME
) -> None:
    """The weights of a causal language model under other names, with a configuration; in shards
    where they are large. A tied head is not written.

    Args:
        lm: its weights are not copied.
        folder: made if it is not there.
        config: the `config.json`.
        names: theirs and those of the causal model.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = dict(lm.state_dict())
    if lm.config.tie_word_embeddings:
        state.pop("lm_head.weight", None)
    save_torch_state_dict(names.theirs(state), folder)
    _write_json(folder / "config.json", config)


def write_special(model: BlockDiffusionLM, folder: str | Path) -> None:
    """A `generation_config.json` with the beginning, end and padding tokens."""
    settings = {name: getattr(model.generation_config, name, None) for name in _SPECIAL}
    given = {name: value for name, value in settings.items() if value is not None}
    _write_json(Path(folder) / "generation_config.json", given)


def special_tokens(model: BlockDiffusionLM) -> dict[str, Any]:
    """The beginning, end and padding tokens, by the names of a `config.json`."""
    return {name: getattr(model.config, name) for name in _SPECIAL}


def dtype_name(lm: PreTrainedModel) -> str:
    """As a `config.json` has it."""
    return str(lm.dtype).removeprefix("torch.")


def _write_json(file: Path, values: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _causal_lm(source: str | Path, reading: Reading) -> PreTrainedModel:
    """The network, with the tensors of the files themselves."""
    text = reading.text
    # Older versions of transformers saved the frequencies, which the configuration says.
    read = {k: v for k, v in weights(source).items() if not k.endswith("rotary_emb.inv_freq")}
    check_floating(read, str(source))
    state = reading.names.ours(read)
    kind = MODEL_FOR_CAUSAL_LM_MAPPING[type(text)]
    _check_tied(text, state, str(source))
    if not reading.renamed:
        _check_weights(kind, reading, state, str(source))
    how = {"config": text, "state_dict": state, "dtype": _dtype(state), "strict": True}
    with made_of(source):
        return complete(kind, None, str(source), **how)


def _mask(source: str | Path, reading: Reading, tokenizer: PreTrainedTokenizerBase | None) -> int:
    """The token that masks, which is a row of the embeddings, as all tokens are."""
    rows = reading.text.vocab_size
    if tokenizer is not None and len(tokenizer) > rows:
        raise ValueError(
            f"The tokenizer of {source} has {len(tokenizer)} tokens, and its model {rows} "
            "embeddings: they do not belong together."
        )
    theirs = None if tokenizer is None else tokenizer.mask_token_id
    named = (reading.mask_token_id, theirs, reading.usual_mask)
    mask = next((token for token in named if token is not None), None)
    if mask is None:
        raise ValueError(
            f"Neither the config.json of {source} nor a tokenizer names the mask token; give "
            "mask_token_id (--mask-token-id)."
        )
    if mask >= rows:
        raise ValueError(f"The mask token {mask} of {source} is no row of its {rows} embeddings.")
    return mask


def _check_weights(kind: type, reading: Reading, state: dict[str, Tensor], source: str) -> None:
    text = reading.text
    with torch.device("meta"), made_of(source):
        model = kind(text)
    wanted = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in state.items()}
    if text.tie_word_embeddings:
        found.setdefault("lm_head.weight", found.get("model.embed_tokens.weight", ()))
    check_same(found, wanted, f"{source} is no {reading.kind} of its sizes")


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
    return {name: given.get(name, getattr(text, name, None)) for name in _SPECIAL}


def _name_mask(tokenizer: PreTrainedTokenizerBase, mask: int) -> None:
    """The token of that number is the tokenizer's mask, where it names none."""
    if tokenizer.mask_token_id is None and mask < len(tokenizer):
        token = tokenizer.convert_ids_to_tokens(mask)
        if token is not None:
            tokenizer.mask_token = token
