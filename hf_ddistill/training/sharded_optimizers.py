"""The optimizer of several networks that FSDP2 shards, in parts that a checkpoint can hold.

One optimizer steps the student and what is trained beside it, and the state of an optimizer is
saved, sharded, by the names of one model: so each network's part is saved by itself, the student's
where `Trainer` puts it, the others' under numbers of their own.
"""

from __future__ import annotations

import contextlib
import copy
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from accelerate.utils import load_fsdp_optimizer, save_fsdp_optimizer
from torch import nn
from torch.optim import Optimizer
from transformers import Trainer


def part_of(optimizer: Optimizer, model: nn.Module) -> Optimizer:
    """An optimizer of a model's groups alone, over the same groups and states."""
    inner: Optimizer = getattr(optimizer, "optimizer", optimizer)
    own = {id(p) for p in model.parameters()}
    part = copy.copy(inner)
    part.param_groups = [g for g in inner.param_groups if any(id(p) in own for p in g["params"])]
    states = {p: state for p, state in inner.state.items() if id(p) in own}
    part.state = defaultdict(dict, states)
    return part


def take_back(optimizer: Optimizer, part: Optimizer) -> None:
    """Enter into an optimizer what was loaded into a part of it."""
    inner: Optimizer = getattr(optimizer, "optimizer", optimizer)
    loaded = {id(group["params"][0]): group for group in part.param_groups}
    for group in inner.param_groups:
        if group["params"] and (found := loaded.get(id(group["params"][0]))):
            group.update({name: value for name, value in found.items() if name != "params"})
    inner.state.update(part.state)


class ShardedOptimizers(Trainer):
    """Saves and loads the optimizer in parts where weights are sharded.

    What a subclass has: `auxiliaries`.
    """

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self._in_parts:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        with self._of_student():
            super()._save_optimizer_and_scheduler(output_dir)
        for number, model in enumerate(self.auxiliaries.models.values(), 1):
            part = part_of(self.optimizer, model)
            save_fsdp_optimizer(*self._accelerated, part, model, output_dir, number)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or not self._in_parts:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        with self._of_student() as part:
            super()._load_optimizer_and_scheduler(checkpoint)
        take_back(self.optimizer, part)
        for number, model in enumerate(self.auxiliaries.models.values(), 1):
            part = part_of(self.optimizer, model)
            load_fsdp_optimizer(*self._accelerated, part, model, checkpoint, number)
            take_back(self.optimizer, part)

    @property
    def _in_parts(self) -> bool:
        return self.accelerator.is_fsdp2 and bool(self.auxiliaries.networks)

    @property
    def _accelerated(self) -> tuple[Any, Any]:
        return self.accelerator.state.fsdp_plugin, self.accelerator

    @contextlib.contextmanager
    def _of_student(self) -> Iterator[Optimizer]:
        whole, part = self.optimizer, part_of(self.optimizer, self.model)
        self.optimizer = part
        try:
            yield part
        finally:
            self.optimizer = whole
