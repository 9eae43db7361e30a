"""Models whose weights are sharded over processes: what does not go with that, and the networks
beside the student, which are sharded as it is."""

from __future__ import annotations

import os

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from accelerate.utils.fsdp_utils import fsdp2_apply_ac, fsdp2_prepare_model
from peft import PeftModel
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, StateDictType
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from hf_ddistill.training.trained_state import parameters_of


def is_sharded(accelerator: Accelerator) -> bool:
    """Whether the weights of the student are."""
    return accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)


def saves_shards(accelerator: Accelerator) -> bool:
    """Whether FSDP is set to save the weights of a model as it shards them."""
    if accelerator.distributed_type != DistributedType.FSDP:
        return False
    return accelerator.state.fsdp_plugin.state_dict_type != StateDictType.FULL_STATE_DICT


def check_whole(accelerator: Accelerator, what: str) -> None:
    """Raise if the student is sharded otherwise than by FSDP2, which `what` does not go with.

    Raises:
        ValueError: under FSDP1 or DeepSpeed.
    """
    if is_sharded(accelerator) and not accelerator.is_fsdp2:
        kind = accelerator.distributed_type.value
        kind = "FSDP1" if kind == "FSDP" else kind
        raise ValueError(
            f"{what} takes whole weights or those that FSDP2 shards, and {kind} shards them: set "
            "fsdp_version: 2 in the configuration of accelerate."
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


def placed_auxiliary(network: nn.Module, accelerator: Accelerator, copied: bool) -> nn.Module:
    """A network that is trained beside the student, where the process computes.

    Args:
        network: whole.
        accelerator: of the training.
        copied: whether it is of the student's kind, and then sharded as the student will be; what
            an objective makes, such as a discriminator, is small, and whole in each process.
    """
    if not accelerator.is_fsdp2:
        return accelerator.prepare_model(network)
    if not copied:
        return DistributedDataParallel(network.to(accelerator.device))
    plugin = accelerator.state.fsdp_plugin
    plugin.set_auto_wrap_policy(network)
    if plugin.activation_checkpointing:
        network = fsdp2_apply_ac(accelerator, network)
    # accelerate's own door takes a network with an optimizer of its own alone.
    return fsdp2_prepare_model(accelerator, network)


def share_base(network: nn.Module, student: nn.Module) -> None:
    """Let adapters beside those of a sharded student lie over its frozen shards, in the place of
    shards of their own that hold the same."""
    if not (isinstance(network, PeftModel) and isinstance(network, FSDPModule)):
        return
    frozen = {name: p for name, p in parameters_of(student) if not p.requires_grad}
    network.load_state_dict(frozen, strict=False, assign=True)


def reshard(model: nn.Module) -> None:
    """Let go of what FSDP2 has gathered, so that a model's parameters are those in training."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def whole(tensor: Tensor) -> Tensor:
    """A tensor as it is; one that is sharded as a whole copy on the CPU, for which all processes
    must ask together."""
    return tensor.full_tensor().cpu() if isinstance(tensor, DTensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor, in the same memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def sharded_like(tensor: Tensor, example: Tensor) -> Tensor:
    """A whole tensor where, and in parts as, another one is."""
    tensor = tensor.to(example.device)
    if not isinstance(example, DTensor) or isinstance(tensor, DTensor):
        return tensor
    return distribute_tensor(tensor, example.device_mesh, example.placements)


@torch.no_grad()
def put(into: Tensor, value: Tensor) -> None:
    """Copy a whole tensor into one that may be sharded."""
    into.copy_(sharded_like(value, into))
