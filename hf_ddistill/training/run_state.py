"""What a checkpoint holds beside what `Trainer` writes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from hf_ddistill.couplings import Memory

STATE_NAME = "run_state.safetensors"
#: Each process saw its own losses.
MEMORY_NAME = "memory_{}.safetensors"


@dataclass(frozen=True)
class RunState:
    """The part of a run that outlives a step, besides weights, optimizer and generators.

    Args:
        tensors: the same in all processes: mean weights, a teacher that changes.
        memory: of the objective and its like, this process's own.
        measured: rows of figures for the card.
    """

    tensors: dict[str, Tensor]
    memory: Memory
    measured: list[dict[str, Any]] = field(default_factory=list)

    def save(self, folder: str | Path, process: int, shared: bool) -> None:
        """Write this process's memory, and with `shared` what is the same in all of them."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        memory = {key: value.contiguous() for key, value in self.memory.tensors.items()}
        save_file(memory, folder / MEMORY_NAME.format(process))
        if shared:
            tensors = {key: value.contiguous() for key, value in self.tensors.items()}
            save_file(tensors, folder / STATE_NAME, {"measured": json.dumps(self.measured)})

    @classmethod
    def load(cls, folder: str | Path, process: int) -> Self:
        """Read what `save` wrote, to the CPU."""
        folder = Path(folder)
        memory = Memory(load_file(folder / MEMORY_NAME.format(process)))
        with safe_open(folder / STATE_NAME, framework="pt") as file:
            measured = json.loads(file.metadata()["measured"])
        return cls(load_file(folder / STATE_NAME), memory, measured)
