"""Two processes convert a language model on their rollouts: run by torchrun, see
test_training_distributed."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from block_runs import distilling, prompts
from distributed_run import check_world, gathered
from training_runs import differing, stop_after, weights


def run(folder, *callbacks):
    """Every prompt the same, so that only draws can differ."""
    trainer = distilling(
        folder,
        data=prompts(1) * 32,
        max_steps=4,
        per_device_train_batch_size=4,
        rollouts={"updates": 2},
        callbacks=list(callbacks),
    )
    check_world(trainer)
    return trainer


def main(folder):
    whole = run(folder / "whole")
    whole.train()
    one, other = gathered(weights(whole.model))
    assert not differing(one, other)
    mine, theirs = gathered(whole.memory.tensors["rollouts.0.input_ids"])
    assert not torch.equal(mine, theirs)

    run(folder / "stopped", stop_after(3)).train()
    resumed = run(folder / "stopped")
    dist.barrier()
    resumed.train(resume_from_checkpoint=str(folder / "stopped" / "checkpoint-3"))
    assert not differing(weights(resumed.model), weights(whole.model))
    print(f"process {dist.get_rank()} of {dist.get_world_size()} is done")
    # A reducer that outlives its process group waits for gloo's thread, which waits for the
    # interpreter's lock: what holds one goes first, and nothing is under way at the end.
    del whole, resumed
    gc.collect()
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
