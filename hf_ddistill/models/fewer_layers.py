"""A model with some of its layers left out: what a smaller student starts as."""

from __future__ import annotations

import torch
from torch import nn


def keep_layers(model: nn.Module, count: int) -> nn.Module:
    """The model with `count` of its layers, evenly spaced, the first and the last among them; it is
    changed in place, its configuration too.

    References: Sanh et al., DistilBERT, a distilled version of BERT, 2019, arXiv:1910.01108; Fan et
    al., Reducing Transformer Depth on Demand with Structured Dropout, 2019, arXiv:1909.11556.

    Raises:
        ValueError: for a number that the model does not have, or a model without one list of as
            many layers as its configuration says.
    """
    depth = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    lists = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == depth
    ]
    if len(lists) != 1:
        raise ValueError(
            f"{type(model).__name__} has {len(lists)} lists of num_hidden_layers={depth} layers; "
            "layers can be left out of a model that has one."
        )
    if not 1 <= count <= depth:
        raise ValueError(f"A student can keep 1 to {depth} layers, got {count}.")
    name, layers = lists[0]
    spaced = torch.linspace(0, depth - 1, count).round().long().tolist()
    owner = model.get_submodule(name.rpartition(".")[0])
    kept = nn.ModuleList(layers[number] for number in spaced)
    setattr(owner, name.rpartition(".")[2], kept)
    for number, layer in enumerate(kept):
        for part in layer.modules():
            if hasattr(part, "layer_idx"):  # where its keys and values stand in a cache
                part.layer_idx = number
    # That of a model and that of what it is around may be two.
    known = [each.config.get_text_config() for each in model.modules() if hasattr(each, "config")]
    for config in {id(each): each for each in known}.values():
        if getattr(config, "num_hidden_layers", None) != depth:
            continue
        config.num_hidden_layers = count
        types = getattr(config, "layer_types", None)
        if types is not None:
            config.layer_types = [types[number] for number in spaced]
    return model
