"""The diffusion transformer of SEDD, MDLM, Duo, SDTT and BD3LM, whose checkpoints share one layout.

Theirs are the names of louaaron's SEDD; hydra's training configuration and the flat one of the Hub
name the same sizes differently.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hf_ddistill.convert.renaming import Renaming
from hf_ddistill.convert.source import BUFFERS

#: Names of a layer, theirs and ours.
_LAYER = {
    "norm1.weight": "norm1.weight",
    "attn_qkv.weight": "attn.qkv.weight",
    "attn_out.weight": "attn.out.weight",
    "norm2.weight": "norm2.weight",
    "mlp.0.weight": "mlp.up.weight",
    "mlp.0.bias": "mlp.up.bias",
    "mlp.2.weight": "mlp.down.weight",
    "mlp.2.bias": "mlp.down.bias",
    "adaLN_modulation.weight": "modulation.linear.weight",
    "adaLN_modulation.bias": "modulation.linear.bias",
}
NAMES = Renaming(
    (
        ("vocab_embed.embedding", "model.embed_tokens.weight"),
        ("sigma_map.mlp.0.weight", "model.condition.time_in.weight"),
        ("sigma_map.mlp.0.bias", "model.condition.time_in.bias"),
        ("sigma_map.mlp.2.weight", "model.condition.time_out.weight"),
        ("sigma_map.mlp.2.bias", "model.condition.time_out.bias"),
        *((f"blocks.{{}}.{a}", f"model.layers.{{}}.{b}") for a, b in _LAYER.items()),
        ("output_layer.norm_final.weight", "model.norm.weight"),
        ("output_layer.adaLN_modulation.weight", "model.norm_modulation.linear.weight"),
        ("output_layer.adaLN_modulation.bias", "model.norm_modulation.linear.bias"),
        ("output_layer.linear.weight", "lm_head.weight"),
        ("output_layer.linear.bias", "lm_head.bias"),
    ),
    prefix="backbone.",
    unlearned=BUFFERS,
)
#: Our sizes: their names in a flat configuration of the Hub, and under hydra's `model`.
SIZES = {
    "hidden_size": ("hidden_dim", "hidden_size"),
    "cond_dim": ("cond_dim", "cond_dim"),
    "max_position_embeddings": ("model_length", "length"),
    "num_hidden_layers": ("n_blocks", "n_blocks"),
    "num_attention_heads": ("n_heads", "n_heads"),
}


def sizes(config: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The sizes of a network by their configuration, hydra's or that of the Hub, by our names.

    Raises:
        ValueError: for a field that is not there or no positive whole number.
    """
    nested = config.get("model")
    of = nested if isinstance(nested, Mapping) else config
    found: dict[str, Any] = {}
    for ours, (flat, hydra) in SIZES.items():
        name = hydra if of is nested else flat
        value = of.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            where = f"model.{name}" if of is nested else name
            said = "lacks" if value is None else f"gives {value!r} for"
            raise ValueError(f"The config.json of {source} {said} {where}, a positive number.")
        found[ours] = value
    dropout = of.get("dropout")
    dropout = 0.0 if dropout is None else dropout
    if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        raise ValueError(f"The config.json of {source} gives {dropout!r} for dropout, a share.")
    return found | {"dropout": float(dropout)}
