"""The losses of one micro batch: their sum, and what is logged beside it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import torch
from accelerate.utils import gather_object
from torch import Tensor


def total(losses: Mapping[str, Tensor], objective: str, step: int) -> Tensor:
    """The sum of losses, which must be a number.

    Args:
        losses: one for each network in training.
        objective: id of what gave them, and
        step: when, for the errors.
    """
    if not losses:
        raise ValueError(
            f"Objective {objective!r} gives no loss at step {step} for a network that is updated "
            "there."
        )
    loss = torch.stack([value.float() for value in losses.values()]).sum()
    if not bool(loss.isfinite()):
        raise ValueError(
            f"The loss of {objective!r} is {float(loss.detach())} at step {step}; lower the "
            "learning rate or look at `hf-ddistill diagnose`."
        )
    return loss


class Parts:
    """Figures of single micro batches, averaged over those that had them between two logs, in all
    processes."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = defaultdict(list)

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Enter figures, scalars, by name."""
        for name, value in values.items():
            self._values[name].append(float(value.detach()))

    def means(self) -> dict[str, float]:
        """The means since the last call, each over all micro batches of all processes that had it;
        all of them must call."""
        every: dict[str, list[float]] = defaultdict(list)
        # As objects: a process may have had figures that others had not.
        for values in gather_object([dict(self._values)]):
            for name, of_process in values.items():
                every[name] += of_process
        self._values.clear()
        return {name: sum(values) / len(values) for name, values in every.items()}
