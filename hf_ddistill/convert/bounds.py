"""What a configuration asks for, held against its weights before a network is made of it.

A network of a million layers takes hours to make, one of a billion channels all memory; what lies
on disk says at once that neither can be meant. Of safetensors only the headers are read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from hf_ddistill.convert.made_of import made_of
from hf_ddistill.convert.source import configuration, shapes

#: Fields that count layers; so many are made in no time, and then compared weight by weight.
_DEPTHS = ("num_hidden_layers", "num_layers", "n_layers", "n_layer", "n_blocks")
_FEW = 1000
#: Fields that are a length of an axis, or divide one; the axes of fused weights are longer.
_WIDTHS = (
    *("vocab_size", "embedding_size", "hidden_size", "hidden_dim", "d_model", "n_embd", "cond_dim"),
    *("intermediate_size", "mlp_hidden_size", "moe_intermediate_size", "timestep_cond_dim"),
    *("num_attention_heads", "num_key_value_heads", "head_dim", "n_heads", "n_kv_heads", "n_head"),
    *("num_experts", "n_routed_experts", "num_local_experts", "num_shared_experts"),
)
_WIDER = 16


def check_sizes(source: str | Path) -> None:
    """Raise for a number of layers or a width that weights as these cannot have.

    Args:
        source: a folder; of a file of weights, which says no sizes, there is nothing to compare.

    Raises:
        ValueError: with the field; if there are no weights, or they cannot be read.
    """
    fields = list(_sizes(configuration(source)))
    if not fields:
        return
    held = shapes(source)
    longest = max((axis for shape in held.values() for axis in shape), default=0)
    for name, value in fields:
        said = f"The config.json of {source} gives {name}={value}, and its weights"
        if name in _DEPTHS and value > max(len(held), _FEW):
            raise ValueError(f"{said} are {len(held)} tensors: no network of so many layers.")
        if name in _WIDTHS and value > max(longest, len(held)) * _WIDER:
            raise ValueError(f"{said} have no axis of more than {longest}.")


def check_numbers(make: Callable[[], torch.nn.Module], source: str | Path) -> None:
    """Raise for a network of far more numbers than the weights are, which would be drawn at random.

    Args:
        make: the network; called where making it takes no memory.
        source: the folder of its weights; what is none is let pass.

    Raises:
        ValueError: with both numbers; as of `made_of`.
    """
    if not Path(source).is_dir():
        return
    with torch.device("meta"), made_of(source):
        asked = sum(weight.numel() for weight in make().parameters())
    held = sum(math.prod(shape) for shape in shapes(source).values())
    # A head that is tied may be counted twice; quantised numbers lie packed in fewer.
    if asked > 2 * held and "quantization_config" not in configuration(source):
        raise ValueError(
            f"The config.json of {source} makes a network of {asked:,} numbers, and its weights "
            f"are {held:,}: they do not belong together."
        )


def _sizes(config: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """All such fields of a configuration, those of its parts as well."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _sizes(value)
        elif name in (*_DEPTHS, *_WIDTHS) and isinstance(value, int):
            yield name, value
