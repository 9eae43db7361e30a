"""What a model that is sharded over processes (FSDP, DeepSpeed) does not go with."""

from __future__ import annotations

import os

from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn


def check_whole(accelerator: Accelerator, what: str) -> None:
    """Raise if the student is sharded, which `what` does not go with.

    Raises:
        ValueError: under FSDP or DeepSpeed.
    """
    kind = accelerator.distributed_type
    if kind in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        raise ValueError(
            f"{what} takes whole weights, and {kind.value} shards them over the processes."
        )


def placed_teacher(teacher: nn.Module, accelerator: Accelerator) -> nn.Module:
    """A frozen teacher on the device of its process; in parts nowhere, also where the student is.

    Raises:
        ValueError: if accelerate loads weights on one process alone, which a second model would
            lack on the others.
    """
    if accelerator.distributed_type != DistributedType.FSDP:
        return accelerator.prepare_model(teacher, evaluation_mode=True)
    if os.environ.get("FSDP_CPU_RAM_EFFICIENT_LOADING", "false").lower() in ("1", "true"):
        raise ValueError(
            "With fsdp_cpu_ram_efficient_loading only the first process has the weights of the "
            "teacher; turn it off, or give peft_config= and no teacher: the student's own base is "
            "then the teacher."
        )
    # accelerate neither moves nor shards a second model under FSDP.
    return teacher.to(accelerator.device)
