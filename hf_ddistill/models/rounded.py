"""A model that computes with rounded weights and is trained through the rounding."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

BITS = (8, 4)
#: Inputs that share a scale at 4 bits; at 8 bits a row of the weights shares one.
GROUP = 32


def round_weights(model: nn.Module, bits: int) -> nn.Module:
    """The model with each linear layer computed with weights of so many bits, symmetric integers
    times a scale; gradients pass the rounding as if it were not there. Changed in place.

    What is saved are the weights before the rounding, under their usual names: the folder opens as
    any other, and as the rounded model that was trained, in as many bits, with

        quantization_config=TorchAoConfig(
            rounding(bits), modules_to_not_convert=unrounded(model, bits)
        )

    (left to itself transformers does not round the head). A head that shares its weights with the
    embedding stays as it is, and at 4 bits layers with a number of inputs that 32 does not divide.

    References: Jacob et al., Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference, 2017, arXiv:1712.05877; torchao, `quantization.qat`.

    Raises:
        ValueError: for other bits, for a model without any layer that is rounded, and without
            torchao.
    """
    _check(bits)
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    whole = {*unrounded(model, bits)}
    if whole.issuperset(linear):
        raise ValueError(
            f"No linear layer of this {type(model).__name__} has a number of inputs that {GROUP} "
            f"divides, so that {bits} bits would round none: take 8."
        )
    from torchao.quantization import quantize_
    from torchao.quantization.qat import IntxFakeQuantizeConfig, QATConfig

    kind = torch.int8 if bits == 8 else torch.int4
    how = IntxFakeQuantizeConfig(kind, granularity=rounding(bits).granularity)
    rounded = {*linear} - whole
    quantize_(model, QATConfig(weight_config=how, step="prepare"), lambda _, name: name in rounded)
    return model


def rounding(bits: int) -> Any:
    """The configuration of torchao that rounds a saved student as it was trained.

    Raises:
        ValueError: for other bits, and without torchao.
    """
    _check(bits)
    from torchao.quantization import IntxWeightOnlyConfig, PerAxis, PerGroup

    kind = torch.int8 if bits == 8 else torch.int4
    return IntxWeightOnlyConfig(kind, PerAxis(0) if bits == 8 else PerGroup(GROUP))


def unrounded(model: nn.Module, bits: int) -> list[str]:
    """The names of the linear layers that `round_weights` leaves as they are."""
    shared = {id(part.weight) for part in model.modules() if isinstance(part, nn.Embedding)}
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and (id(module.weight) in shared or (bits != 8 and module.in_features % GROUP))
    ]


def _check(bits: int) -> None:
    if bits not in BITS:
        raise ValueError(f"Weights are rounded to 8 or to 4 bits, got {bits}.")
    try:
        import torchao  # noqa: F401
    except ImportError:
        raise ValueError(
            f"Weights of {bits} bits need torchao: pip install 'hf_ddistill[quantized]'."
        ) from None
