"""What of a network a training changes, by the names of its state dict."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

#: A part of the names of parameters where accelerate keeps no activations, and of no state dict.
_CHECKPOINTED = "_checkpoint_wrapped_module."


def parameters_of(model: nn.Module, once: bool = False) -> Iterator[tuple[str, nn.Parameter]]:
    """All parameters under all of their names, or under one each."""
    for name, parameter in model.named_parameters(remove_duplicate=once):
        yield name.replace(_CHECKPOINTED, ""), parameter


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """The weights and buffers of a network without those that are frozen, such as the base of
    adapters; the tensors themselves, by name."""
    frozen = {name for name, p in parameters_of(model) if not p.requires_grad}
    return {name: value for name, value in model.state_dict().items() if name not in frozen}
