"""Both trainers in two processes on the CPU (`accelerate launch --cpu` would start but one)."""

from __future__ import annotations

import pytest
import torch
from batch_runs import moved
from two_processes import in_two_processes


@pytest.mark.slow
def test_two_processes_draw_their_own_noise_and_keep_equal_weights(tmp_path):
    in_two_processes("distributed_run.py", tmp_path)


@pytest.mark.slow
def test_two_processes_decode_their_own_rollouts_and_keep_equal_weights(tmp_path):
    in_two_processes("distributed_rollouts.py", tmp_path)


@pytest.mark.slow
def test_two_processes_stop_together_go_on_together_and_log_what_both_saw(tmp_path):
    in_two_processes("distributed_resume.py", tmp_path)


@pytest.mark.slow
def test_two_processes_take_uneven_rows_as_one_does(tmp_path):
    """A stream of them; the gradient of a step; the loss of an evaluation."""
    in_two_processes("distributed_batches.py", tmp_path)
    alone, _ = moved(tmp_path / "alone", 6, 1)
    for process in (0, 1):
        weights = torch.load(tmp_path / f"weights-{process}.pt")
        torch.testing.assert_close(weights, alone, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_two_processes_that_shard_their_weights_take_the_steps_of_two_that_do_not(tmp_path):
    """Student, auxiliary and mean of weights, by copies and by adapters; stopped and resumed."""
    in_two_processes("sharded_training.py", tmp_path)
