"""The diffusion transformer of SEDD, MDLM, Duo, SDTT and BD3LM, whose checkpoints share one layout.

Theirs are the names of louaaron's SEDD; hydra's training configuration and the flat one of the Hub
name the same sizes differently.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from hf_ddistill.convert.renaming import Renaming, check_same
from hf_ddistill.convert.source import BUFFERS, weights
from hf_ddistill.models import DDiTConfig, DDiTForDiscreteDiffusion

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
    return found | {"dropout": float(of.get("dropout", 0.0))}


def read_ddit(source: str | Path, config: DDiTConfig, kind: str) -> DDiTForDiscreteDiffusion:
    """The network of a folder or file of theirs.

    Args:
        source: with weights.
        config: of the network, ours.
        kind: what the error calls it, such as "MDLM".

    Raises:
        ValueError: for weights that do not fit, grouped, or that cannot be read.
    """
    state = NAMES.ours(weights(source))
    with torch.device("meta"):
        model = DDiTForDiscreteDiffusion(config)
    wanted = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    if config.tie_word_embeddings:
        state.setdefault("lm_head.weight", state.get("model.embed_tokens.weight"))
    found = {key: tuple(value.shape) for key, value in state.items()}
    check_same(found, wanted, f"{source} is no {kind} network of its configuration's sizes")
    model.load_state_dict(state, assign=True)
    model.tie_weights()
    return model.requires_grad_(True).eval()


def write_ddit(
    model: DDiTForDiscreteDiffusion, folder: str | Path, config: Mapping[str, Any]
) -> None:
    """The weights under their names, with a configuration of theirs, into a new folder."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {key: value.contiguous() for key, value in NAMES.theirs(model.state_dict()).items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
