"""The running mean of a model's trainable weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class WeightAverage(TrainerCallback):
    """mean <- decay * mean + (1 - decay) * weights after every optimizer step.

    The decay warms up as (1 + step) / (10 + step), so that the mean forgets where it started.

    Args:
        model: whose trainable weights are averaged; adapters alone under PEFT.
        decay: in [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = model, decay
        self.mean = {name: p.detach().clone() for name, p in self._weights()}

    def _weights(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, p) for name, p in self.model.named_parameters() if p.requires_grad)

    @torch.no_grad()
    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        """Move the mean towards the new weights."""
        decay = min(self.decay, (1 + state.global_step) / (10 + state.global_step))
        for name, weight in self._weights():
            self.mean[name] = self.mean[name].to(weight.device).lerp(weight, 1 - decay)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Within it the model has the mean weights."""
        kept = {name: p.detach().clone() for name, p in self._weights()}
        self._put(self.mean)
        try:
            yield
        finally:
            self._put(kept)

    @torch.no_grad()
    def _put(self, weights: dict[str, Tensor]) -> None:
        for name, p in self._weights():
            p.copy_(weights[name])
