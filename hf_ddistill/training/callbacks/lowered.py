"""The learning rate of one network, lower for one step."""

from __future__ import annotations

from torch import nn
from torch.optim import Optimizer


class LoweredRates:
    """Multiplies the rates of an optimizer's groups that have parameters of a model.

    Args:
        model: whose rates.
        optimizer: of it, and of others.
        factor: by which.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, factor: float) -> None:
        own, self._were = {id(p) for p in model.parameters()}, []
        for group in optimizer.param_groups:
            if any(id(p) in own for p in group["params"]):
                self._were.append((group, group["lr"]))
                group["lr"] = group["lr"] * factor

    def give_back(self) -> None:
        """What they were."""
        for group, rate in self._were:
            group["lr"] = rate
