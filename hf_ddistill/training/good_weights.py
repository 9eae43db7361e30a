"""The last good state of a training, kept beside it on the CPU, so that it can be stepped back
to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hf_ddistill.training.callbacks.ema import WeightAverage
from hf_ddistill.training.trained_state import trained_state


class GoodWeights:
    """The weights that were judged, what is trained beside them, and the optimizer's state.

    What is judged, and would be saved, is the mean of the weights where there is one: it is what
    the student goes on from.

    Args:
        model: in training.
        average: of its weights, if there is one.
        auxiliaries: networks that are trained beside it, by name.
        optimizer: of all of them.
    """

    def __init__(
        self,
        model: nn.Module,
        average: WeightAverage | None,
        auxiliaries: Mapping[str, nn.Module],
        optimizer: Optimizer,
    ) -> None:
        self.model, self.average = model, average
        self.auxiliaries, self.optimizer = auxiliaries, optimizer

    @torch.no_grad()
    def take(self) -> dict[str, Tensor]:
        """A copy of the state as it is."""
        mean = {} if self.average is None else self.average.mean
        found = {f"student.{name}": mean.get(name, p) for name, p in self._trained()}
        for network, model in self.auxiliaries.items():
            found |= {f"{network}.{name}": p for name, p in trained_state(model).items()}
        for number, parameter in enumerate(self._of_optimizer()):
            for name, value in self.optimizer.state.get(parameter, {}).items():
                kind = torch.float64 if isinstance(value, float) else None
                found[f"optimizer.{number}.{name}"] = torch.as_tensor(value, dtype=kind)
        return {name: value.detach().to("cpu", copy=True) for name, value in found.items()}

    @torch.no_grad()
    def put_back(self, taken: Mapping[str, Tensor]) -> None:
        """Bring back the state that `take` gave."""
        for name, parameter in self._trained():
            parameter.copy_(taken[f"student.{name}"])
            if self.average is not None:
                self.average.mean[name].copy_(taken[f"student.{name}"])
        for network, model in self.auxiliaries.items():
            for name, value in trained_state(model).items():
                value.copy_(taken[f"{network}.{name}"])
        for number, parameter in enumerate(self._of_optimizer()):
            start = f"optimizer.{number}."
            kept = {k.removeprefix(start): v for k, v in taken.items() if k.startswith(start)}
            state = self.optimizer.state.get(parameter, {})
            if not kept:
                # As before its first update.
                self.optimizer.state.pop(parameter, None)
            for name, value in kept.items():
                _copy(state, name, value)

    def _trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, p) for name, p in self.model.named_parameters() if p.requires_grad)

    def _of_optimizer(self) -> Iterator[nn.Parameter]:
        return (p for group in self.optimizer.param_groups for p in group["params"])


def _copy(state: dict[str, Any], name: str, value: Tensor) -> None:
    """Enter a tensor, or the number that it was made of, in a parameter's state."""
    if isinstance(state[name], Tensor):
        state[name].copy_(value)
    else:
        state[name] = type(state[name])(value.item())
