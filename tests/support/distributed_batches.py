"""Uneven rows in two processes: run by torchrun, see test_training_distributed."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from batch_runs import ROWS, K, added, moved, network, trainer_of
from datasets import IterableDataset
from training_runs import QUIET

from hf_ddistill.training import DiscreteDiffusionConfig, DiscreteDiffusionTrainer


def stream():
    for i in range(64):
        yield {"input_ids": [(i + j) % (K - 2) for j in range(3 + i * 5 % 11)]}


def main(folder):
    args = DiscreteDiffusionConfig(
        str(folder / "stream"), **QUIET, max_steps=3, per_device_train_batch_size=2
    )
    assert args.world_size == 2
    data = IterableDataset.from_generator(stream)
    trainer = DiscreteDiffusionTrainer(network(0), args, train_dataset=data)
    trainer.train()
    assert trainer.state.global_step == 3

    # Six rows of unequal lengths: three for each process, in one batch or one by one.
    one, loss = moved(folder / "a", 3, 1)
    two, logged = moved(folder / "b", 1, 3)
    torch.testing.assert_close(two, one, atol=1e-5, rtol=1e-4)
    assert abs(logged / loss - 1) < 1e-4
    torch.save(one, folder / f"weights-{dist.get_rank()}.pt")

    # Five rows: the last batch is filled up with one that was there before.
    for name in ("nelbo", "bd3lm"):
        held_out = trainer_of(folder / name, name, data=ROWS[:5], per_device_eval_batch_size=2)
        parts = added(held_out, ROWS[:5])
        found = held_out.evaluate()["eval_loss"]
        assert abs(found * parts["units"] / parts["student"] - 1) < 1e-4, (name, found, parts)
    print(f"process {dist.get_rank()} of {dist.get_world_size()} is done", flush=True)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
