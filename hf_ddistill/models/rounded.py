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
    any other, and with `quantization_config=TorchAoConfig(rounding(bits))` as the rounded model
    that was trained, in as many bits. Layers with a number of inputs that 32 does not divide stay
    as they are at 4 bits.

    References: Jacob et al., Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference, 2017, arXiv:1712.05877; torchao, `quantization.qat`.

    Raises:
        ValueError: for other bits, and without torchao.
    """
    _check(bits)
    from torchao.quantization import quantize_
    from torchao.quantization.qat import IntxFakeQuantizeConfig, QATConfig

    kind = torch.int8 if bits == 8 else torch.int4
    how = IntxFakeQuantizeConfig(kind, granularity=rounding(bits).granularity)
    quantize_(model, QATConfig(weight_config=how, step="prepare"), lambda m, _: _fits(m, bits))
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


def _check(bits: int) -> None:
    if bits not in BITS:
        raise ValueError(f"Weights are rounded to 8 or to 4 bits, got {bits}.")
    try:
        import torchao  # noqa: F401
    except ImportError:
        raise ValueError(
            f"Weights of {bits} bits need torchao: pip install 'hf_ddistill[quantized]'."
        ) from None


def _fits(module: nn.Module, bits: int) -> bool:
    return isinstance(module, nn.Linear) and (bits == 8 or module.in_features % GROUP == 0)
