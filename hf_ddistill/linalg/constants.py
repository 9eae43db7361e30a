"""Constants of a process, made once and sent to each device once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

# What was made of a tensor goes when the tensor goes.
_MADE = WeakTensorKeyDictionary()


def made_of(source: Tensor, name: str, make: Callable[[Tensor], Tensor]) -> Tensor:
    """`make(source)`, made once for each name and as long as `source` lives.

    Args:
        source: a constant: nobody changes it in place.
        name: of what is made.
        make: how.
    """
    if source.requires_grad or torch.compiler.is_compiling():
        return make(source)
    made = _MADE.setdefault(source, {})
    if name not in made:
        # One that is made in inference mode could not be used in training later.
        with torch.inference_mode(False), torch.no_grad():
            made[name] = make(source)
    return made[name]


def on(source: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """A constant on a device and in a dtype; nothing is sent the second time."""
    dtype = source.dtype if dtype is None else dtype
    if source.device == device and source.dtype == dtype:
        return source
    return made_of(source, f"{device} {dtype}", lambda x: x.to(device=device, dtype=dtype))
