"""The running mean of a model's trainable weights."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_ddistill.training.sharding import local, put, reshard, sharded_like, whole
from hf_ddistill.training.trained_state import parameters_of


class WeightAverage(TrainerCallback):
    """mean <- decay * mean + (1 - decay) * weights after every update of the model.

    At update n the decay is no more than (1 + n) / (10 + n), so that the mean forgets where it
    started.

    Args:
        model: whose trainable weights are averaged; adapters alone under PEFT.
        decay: in [0, 1).
        updates: from a number of optimizer steps to how many of them update the model; all if not
            given.
    """

    def __init__(self, model: nn.Module, decay: float, updates: Callable[[int], int] = int) -> None:
        self.model, self.decay, self.updates = model, decay, updates
        # At least float32: in bfloat16 a step of 1 - decay is lost to rounding.
        self.mean = {
            name: p.detach().to(torch.promote_types(p.dtype, torch.float32), copy=True)
            for name, p in self.trainable()
        }

    def trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The parameters that are averaged, by name."""
        return ((name, p) for name, p in parameters_of(self.model, once=True) if p.requires_grad)

    def _placed(self) -> dict[str, nn.Parameter]:
        """The parameters in training; the means, which were made of whole weights, now lie where
        these have been placed, and in parts as they are."""
        reshard(self.model)
        weights = dict(self.trainable())
        self.mean = {name: sharded_like(self.mean[name], p) for name, p in weights.items()}
        return weights

    @torch.no_grad()
    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        """Move the mean towards the new weights, if they are new."""
        count = self.updates(state.global_step)
        if count == self.updates(state.global_step - 1):
            return
        decay = min(self.decay, (1 + count) / (10 + count))
        weights = self._placed()
        means = list(map(local, self.mean.values()))
        new = [local(p).to(mean.dtype) for p, mean in zip(weights.values(), means, strict=True)]
        # In place, all in one pass: a new tensor for each costs seven times as much.
        torch._foreach_lerp_(means, new, 1 - decay)

    def kept(self) -> dict[str, Tensor]:
        """The means as a checkpoint keeps them, whole."""
        return {name: whole(mean) for name, mean in self.mean.items()}

    def restore(self, means: Mapping[str, Tensor]) -> None:
        """Take up the means of a checkpoint."""
        self._placed()
        for name, mean in self.mean.items():
            put(mean, means[name])

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Within it the model has the mean weights."""
        kept = {name: p.detach().clone() for name, p in self._placed().items()}
        self._put(self.mean)
        try:
            yield
        finally:
            self._put(kept)

    @torch.no_grad()
    def _put(self, weights: dict[str, Tensor]) -> None:
        for name, p in self._placed().items():
            p.copy_(weights[name])


class AveragedModel(nn.Module):
    """A model called with the mean of its weights, in eval mode and without gradients.

    Its own weights are not touched, so that a graph built with them can still go backward.
    """

    def __init__(self, average: WeightAverage) -> None:
        super().__init__()
        self.module, self.average = average.model, average

    @torch.no_grad()
    def forward(self, **inputs: Any) -> Any:
        """What the model gives with the mean weights."""
        weights = {name: self.average.mean[name].to(p) for name, p in self.average.trainable()}
        training = self.module.training
        self.module.eval()
        try:
            return torch.func.functional_call(self.module, weights, kwargs=inputs)
        finally:
            self.module.train(training)
