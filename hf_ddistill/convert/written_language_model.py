"""A diffusion language model of ours in the form that others read, without their code."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from torch import Tensor
from transformers import PreTrainedModel

from hf_ddistill.convert.language_model import SPECIAL, Form
from hf_ddistill.models import BlockDiffusionLM


def write_language_model(
    model: PreTrainedModel,
    form: Form,
    described: Callable[[BlockDiffusionLM], Mapping[str, Any]],
    folder: str | Path,
) -> None:
    """The whole folder: weights, configuration, special tokens.

    Args:
        model: ours; its weights are not copied.
        form: that of the folder.
        described: what its `config.json` says beside mask, special tokens and dtype; it may refuse
            what the form has no place for.
        folder: made if it is not there.

    Raises:
        ValueError: with what the form has no place for.
    """
    lm = language_model_of(model, form.kind, form.text.model_type)
    check_reading(model, form)
    config = {
        **described(model),
        "mask_token_id": model.config.mask_token_id,
        **special_tokens(model),
        form.dtype_field: dtype_name(lm),
    }
    write_weights(lm, folder, config, form)
    write_special(model, folder)


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


def check_reading(model: BlockDiffusionLM, form: Form) -> None:
    """Raise unless a model's attention and the reading of its logits are those of a form."""
    config, kind = model.config, form.kind
    if config.causal_context != form.causal_context:
        own, other = "causally", "in both directions"
        own, other = (own, other) if config.causal_context else (other, own)
        raise ValueError(f"The student reads finished blocks {own}, and {kind} {other}.")
    if form.full and not model.is_full(config.block_size):
        raise ValueError(
            f"The student attends in blocks of {config.block_size} tokens, and {kind} has full "
            "attention."
        )
    if not form.full and model.is_full(config.block_size):
        raise ValueError(f"The student has full attention, and {kind} attends in blocks.")
    if config.shift_logits != form.shift_logits:
        own, other = ("i - 1", "i") if config.shift_logits else ("i", "i - 1")
        raise ValueError(
            f"The student's output at {own} speaks of token i, that of {kind} the one at {other}."
        )


def write_weights(
    lm: PreTrainedModel, folder: str | Path, config: Mapping[str, Any], form: Form
) -> None:
    """The weights of a causal language model under a form's names, with a configuration; in shards
    where they are large. A tied head is not written.

    Args:
        lm: its weights are not copied.
        folder: made if it is not there.
        config: the `config.json`.
        form: that of the folder.
    """
    folder = Path(folder)
    if form.renamed:  # transformers splits the experts as it joined them
        written_by = lm.config.architectures
        lm.save_pretrained(folder, state_dict=_router_as_read(lm))
        lm.config.architectures = written_by
    else:
        folder.mkdir(parents=True, exist_ok=True)
        state = dict(lm.state_dict())
        if lm.config.tie_word_embeddings:
            state.pop("lm_head.weight", None)
        save_torch_state_dict(form.names.theirs(state), folder)
    _write_json(folder / "config.json", config)


def write_special(model: BlockDiffusionLM, folder: str | Path) -> None:
    """A `generation_config.json` with the beginning, end and padding tokens."""
    settings = {name: getattr(model.generation_config, name, None) for name in SPECIAL}
    given = {name: value for name, value in settings.items() if value is not None}
    _write_json(Path(folder) / "generation_config.json", given)


def special_tokens(model: BlockDiffusionLM) -> dict[str, Any]:
    """The beginning, end and padding tokens, by the names of a `config.json`."""
    return {name: getattr(model.config, name) for name in SPECIAL}


def dtype_name(lm: PreTrainedModel) -> str:
    """As a `config.json` has it."""
    return str(lm.dtype).removeprefix("torch.")


def _router_as_read(lm: PreTrainedModel) -> dict[str, Tensor]:
    """The weights; a router, which transformers keeps in float32, in the dtype of the others where
    that holds its numbers."""
    state = dict(lm.state_dict())
    for key in [key for key in state if key.endswith("mlp.gate.weight")]:
        short = state[key].to(lm.dtype)
        if torch.equal(short.to(state[key].dtype), state[key]):
            state[key] = short
    return state


def _write_json(file: Path, values: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
