"""What a training remembers from step to step, and what one step tells of itself."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Memory:
    """Tensors that live on from step to step and are saved with a checkpoint, each its owner's.

        table = step.memory.of("adaptive_times").get("squares", torch.ones(8, 8))

    Args:
        tensors: all of them, by "owner.name".
        prefix: of the owner's names; "" for all.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    prefix: str = ""

    def of(self, owner: str) -> Memory:
        """The part of an objective, a coupling, or whoever else remembers."""
        return Memory(self.tensors, f"{self.prefix}{owner}.")

    def get(self, name: str, fresh: Tensor) -> Tensor:
        """What is kept under a name; at first `fresh`, which is kept from now on. It may be changed
        in place.

        Raises:
            ValueError: if what is kept has another shape or type.
        """
        kept = self.tensors.setdefault(self.prefix + name, fresh)
        if (kept.shape, kept.dtype) != (fresh.shape, fresh.dtype):
            raise ValueError(
                f"The memory of {self.prefix + name!r} holds {kept.dtype} of shape "
                f"{tuple(kept.shape)}, not {fresh.dtype} of shape {tuple(fresh.shape)}."
            )
        return kept

    def put(self, name: str, tensor: Tensor) -> None:
        """Keep a tensor in the place of what is there."""
        self.tensors[self.prefix + name] = tensor

    def own(self) -> dict[str, Tensor]:
        """All that the owner keeps, by its own names."""
        return {
            name.removeprefix(self.prefix): tensor
            for name, tensor in self.tensors.items()
            if name.startswith(self.prefix)
        }

    def clear(self) -> None:
        """Forget all that the owner keeps."""
        for name in self.own():
            del self.tensors[self.prefix + name]

    def copy(self) -> Memory:
        """The same in tensors of its own: for an evaluation, which must leave no trace."""
        tensors = {name: tensor.clone() for name, tensor in self.tensors.items()}
        return Memory(tensors, self.prefix)


class Log:
    """Figures of one step, such as parts of its loss: `step.log("reward", value)`."""

    def __init__(self) -> None:
        self.figures: dict[str, Tensor] = {}

    def __call__(self, name: str, value: Tensor | float) -> None:
        """Enter a number, detached.

        Raises:
            ValueError: if it is not one number.
        """
        figure = torch.as_tensor(value).detach()
        if figure.numel() != 1:
            raise ValueError(
                f"A figure of the log is one number, and {name!r} has the shape "
                f"{tuple(figure.shape)}."
            )
        self.figures[name] = figure.reshape(())
