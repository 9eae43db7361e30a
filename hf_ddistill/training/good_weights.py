"""The last good state of a training, kept beside it on the CPU, so that it can be stepped back
to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hf_ddistill.training.callbacks.ema import WeightAverage
from hf_ddistill.training.trained_state import trained_state

#: Beyond all distances; a checkpoint keeps no infinite numbers.
FAR = 1e9


@dataclass
class GoodStep:
    """A state that a training can go back to.

    Args:
        weights: what `GoodWeights.take` gave; empty for none.
        step: behind which.
        distance: of the student's samples from the data.
        near: whether it was no more than the teacher's.
        leads: whether it was seen ahead of its teacher at fewer calls (`FewerCalls`).
    """

    weights: dict[str, Tensor] = field(default_factory=dict)
    step: int = 0
    distance: float = FAR
    near: bool = False
    leads: bool = False

    def kept(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        numbers = [self.step, self.distance, self.near, self.leads]
        return {**self.weights, "numbers": torch.tensor(numbers, dtype=torch.float64)}

    @classmethod
    def of(cls, kept: Mapping[str, Tensor]) -> Self:
        """What `kept` was of."""
        weights = {name: value for name, value in kept.items() if name != "numbers"}
        step, distance, near, leads = kept["numbers"].tolist()
        return cls(weights, int(step), distance, bool(near), bool(leads))


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
        self.become([taken[f"student.{name}"] for name, _ in self._trained()])
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

    @torch.no_grad()
    def become(self, weights: Sequence[Tensor]) -> None:
        """Give the student, and its mean, other weights, in the order of its own."""
        for (name, parameter), weight in zip(self._trained(), weights, strict=True):
            parameter.copy_(weight)
            if self.average is not None:
                self.average.mean[name].copy_(weight)

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
