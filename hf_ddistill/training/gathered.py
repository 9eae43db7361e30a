"""The weights of a sharded model, whole in every process for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn
from torch.distributed.fsdp import FSDPModule


@contextlib.contextmanager
def gathered(model: nn.Module) -> Iterator[nn.Module]:
    """Within it every process has all weights of a model that FSDP2 shards, in the dtype of its
    computation, and calls it without waiting for the others: they need not call it equally often.

    A model that is not sharded stays as it is. All processes must enter and leave together, and
    none may go backward within. Afterwards the weights of all but the outermost module are sharded
    after each forward pass.
    """
    shards = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for shard in shards:
        shard.unshard()
        shard.set_reshard_after_forward(False, recurse=False)
    try:
        yield model
    finally:
        for shard in shards:
            shard.set_reshard_after_forward(shard is not model, recurse=False)
            shard.reshard()
