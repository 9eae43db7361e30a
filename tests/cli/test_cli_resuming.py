"""Commands that go on from a checkpoint."""

from __future__ import annotations

import pytest
from training_runs import differing, distilling, weights

from hf_ddistill.cli.resuming import train


def run(folder):
    return distilling(folder, max_steps=2, save_strategy="steps", save_steps=2)


def test_a_run_that_had_ended_takes_no_further_step(tmp_path):
    first = run(tmp_path)
    train(first, tmp_path)
    again = run(tmp_path)
    train(again, tmp_path)
    assert again.state.global_step in (0, 2)
    assert not differing(weights(first.model), weights(again.model))
    assert not differing(first.average.mean, again.average.mean)


def test_resuming_without_a_checkpoint_is_told(tmp_path):
    with pytest.raises(ValueError, match="There is no checkpoint in .* to go on from"):
        train(run(tmp_path), tmp_path, must_resume=True)
