"""The losses of micro batches: their sum, and what is logged beside it.

Nothing here waits for the device but `Parts.means`, at a log, and `LossWatch.sum`, once in each
optimizer step.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import torch
from accelerate.utils import gather_object
from torch import Tensor


def total(losses: Mapping[str, Tensor], objective: str, step: int) -> Tensor:
    """The sum of losses.

    Args:
        losses: one for each network in training.
        objective: id of what gave them, and
        step: when, for the error.

    Raises:
        ValueError: if there is none.
    """
    if not losses:
        raise ValueError(
            f"Objective {objective!r} gives no loss at step {step} for a network that is updated "
            "there."
        )
    return torch.stack([value.float() for value in losses.values()]).sum()


class Parts:
    """Figures of single micro batches, averaged over those that had them between two logs, in all
    processes."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = defaultdict(int)

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Enter figures, scalars, by name; they stay where they are, and are not waited for."""
        for name, value in values.items():
            value = value.detach().to(torch.float64, copy=True)
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] += 1

    def means(self) -> dict[str, float]:
        """The means since the last call, each over all micro batches of all processes that had it;
        all of them must call."""
        own = {name: (value, self._counts[name]) for name, value in read(self._sums).items()}
        every: dict[str, list[tuple[float, int]]] = defaultdict(list)
        # As objects: a process may have had figures that others had not.
        for values in gather_object([own]):
            for name, of_process in values.items():
                every[name].append(of_process)
        self._sums.clear()
        self._counts.clear()
        return {
            name: sum(value for value, _ in pairs) / sum(count for _, count in pairs)
            for name, pairs in every.items()
        }


def read(values: Mapping[str, Tensor]) -> dict[str, float]:
    """Scalars as numbers, in one wait for each device that they are on."""
    places: dict[torch.device, list[str]] = defaultdict(list)
    for name, value in values.items():
        places[value.device].append(name)
    found: dict[str, float] = {}
    for names in places.values():
        stacked = torch.stack([values[name].detach().double() for name in names])
        found.update(zip(names, stacked.tolist(), strict=True))
    return {name: found[name] for name in values}
