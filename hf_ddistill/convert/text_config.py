"""Configurations that name their fields as transformers' own, under a type of their own."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from transformers import PreTrainedConfig

from hf_ddistill.convert.fields import Fields
from hf_ddistill.convert.made_of import made_of

Text = TypeVar("Text", bound=PreTrainedConfig)
_NEEDED = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
)
#: What the configurations of all these models have, and written ones say.
COMMON = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "max_position_embeddings",
    "rms_norm_eps",
    "tie_word_embeddings",
)
_ROPE = ("rope_theta", "rope_scaling", "rope_parameters", "partial_rotary_factor")
_OTHER = ("model_type", "layer_types", "dtype", "architectures", "use_cache")
_SLIDING = ("sliding_window", "use_sliding_window", "max_window_layers")


def text_config(cls: type[Text], fields: Fields, **more: Any) -> Text:
    """The configuration of a causal language model, of the fields that it knows.

    Args:
        cls: of the configuration.
        fields: of theirs.
        **more: instead of theirs.

    Raises:
        ValueError: for a field that is missing, for a base of the rotary positions that nothing
            says, and for sliding attention.
    """
    for name in _NEEDED:
        fields.count(name)
    fields.number("rms_norm_eps")
    values = fields.values
    if values.get("use_sliding_window", values.get("sliding_window") is not None):
        raise ValueError(
            f"The config.json of {fields.source} asks for sliding attention "
            f"(sliding_window={values.get('sliding_window')!r}), and blocks need full attention."
        )
    rope = values.get("rope_parameters")
    if not (isinstance(rope, dict) and rope.get("rope_theta")):
        fields.number("rope_theta")  # a default of transformers would be a guess
    known = {each.name for each in dataclasses.fields(cls)} - {*_OTHER, *_SLIDING}
    given = {
        name: value
        for name, value in floats(cls, values).items()
        if name in known | set(_ROPE) and value is not None
    }
    if "num_key_value_heads" in known:
        heads = fields.count("num_attention_heads")
        given["num_key_value_heads"] = fields.count("num_key_value_heads", heads)
    with made_of(fields.source):
        return cls(**given | more)


def floats(cls: type[PreTrainedConfig], values: Mapping[str, Any]) -> dict[str, Any]:
    """The same values, whole ones as floats where the configuration takes no other."""
    kinds = {each.name: each.type for each in dataclasses.fields(cls)}
    return {
        name: float(value) if type(value) is int and kinds.get(name) is float else value
        for name, value in values.items()
    }


def plain_rope(text: PreTrainedConfig) -> dict[str, Any]:
    """The rotary positions by the names that came before `rope_parameters`: `rope_theta`, and
    `rope_scaling`, which is null for plain ones."""
    rope = dict(text.rope_parameters)
    theta = rope.pop("rope_theta")
    scaled = rope.get("rope_type", "default") != "default"
    return {"rope_theta": theta, "rope_scaling": rope if scaled else None}


def written(text: PreTrainedConfig, names: tuple[str, ...]) -> Mapping[str, Any]:
    """These fields and the rotary positions, for a `config.json`."""
    return {name: getattr(text, name) for name in names} | plain_rope(text)
