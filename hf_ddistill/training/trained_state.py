"""What of a network a training changes."""

from __future__ import annotations

from torch import Tensor, nn


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """The weights and buffers of a network without those that are frozen, such as the base of
    adapters; the tensors themselves, by name."""
    named = model.named_parameters(remove_duplicate=False)
    frozen = {name for name, p in named if not p.requires_grad}
    return {name: value for name, value in model.state_dict().items() if name not in frozen}
