"""Two processes log what both saw, stop together and go on together: run by torchrun, see
test_training_distributed."""

from __future__ import annotations

import gc
import os
import signal
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from distributed_run import check_world
from training_runs import At, differing, distilling, rows, tiny, weights

from hf_ddistill.cli.resuming import train
from hf_ddistill.training.checkpoints import damage
from hf_ddistill.training.losses import Parts

SETTINGS = {"max_steps": 4, "per_device_train_batch_size": 4, "save_strategy": "steps"}


def run(folder, *callbacks):
    objective = {"type": "ecd", "times": {"type": "adaptive_times"}}
    made = {"objective": objective, "callbacks": list(callbacks), "logging_steps": 1}
    trainer = distilling(folder, tiny(), rows(32), **made, **SETTINGS, save_steps=3)
    check_world(trainer)
    return trainer


def check_parts():
    """Figures that one process alone has, and another number of them in each."""
    rank, parts = dist.get_rank(), Parts()
    for value in (1.0, 2.0) if rank else (6.0,):
        parts.add({"both": torch.tensor(value)})
    parts.add({f"of {rank}": torch.tensor(float(rank))})
    assert parts.means() == {"both": 3.0, "of 0": 0.0, "of 1": 1.0}
    assert parts.means() == {}


def main(folder):
    whole = run(folder / "whole")
    check_parts()
    whole.train()

    def kill(state, control):
        if state.global_step == 1 and dist.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    stopped = run(folder / "stopped", At("on_step_begin", kill))
    with pytest.raises(SystemExit) as error:
        train(stopped, None, option="--resume")
    assert error.value.code == 143 and stopped.state.global_step == 2
    resumed = run(folder / "stopped")
    # The first process has yet to say that the checkpoint is whole; they agree on what it was.
    train(resumed, folder / "stopped", must_resume=True)
    assert damage(folder / "stopped" / "checkpoint-2") is None
    assert (folder / "stopped" / "checkpoint-2" / "memory_1.safetensors").exists()
    assert not differing(weights(resumed.model), weights(whole.model))
    assert not differing(resumed.memory.tensors, whole.memory.tensors)
    logged = [[r for r in t.state.log_history if "loss" in r] for t in (whole, resumed)]
    assert [r["student_loss"] for r in logged[0]] == [r["student_loss"] for r in logged[1]]
    for record in logged[0]:
        assert record["student_loss"] == pytest.approx(record["loss"], rel=1e-5)
    again = run(folder / "stopped")
    again.args.per_device_train_batch_size = 2
    with pytest.raises(ValueError, match="per_device_train_batch_size was 4 and is 2"):
        again.train(resume_from_checkpoint=True)
    print(f"process {dist.get_rank()} of {dist.get_world_size()} is done")
    # See distributed_run.
    del whole, stopped, resumed, again
    gc.collect()
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
