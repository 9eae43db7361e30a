"""What each objective's training logs is told in the help and in the docs."""

from __future__ import annotations

import pytest
from batch_runs import trainer_of
from test_batches import EVERY

from hf_ddistill.cli.logged import OF_ALL, OF_DISTILLATION

#: Of block_law_matching, whose student has no noise input here.
pytestmark = pytest.mark.filterwarnings("ignore:A student of one call")


@pytest.mark.parametrize("name", EVERY)
def test_every_figure_of_a_step_is_told(name, tmp_path):
    given = EVERY[name][0]
    ours = {key: value for key, value in given.items() if key != "diffusion"}
    more = {"max_steps": 1, "logging_steps": 1}
    trainer = trainer_of(tmp_path, {"type": name, **ours}, diffusion=given.get("diffusion"), **more)
    trainer.train()
    logged = {key for entry in trainer.state.log_history if "loss" in entry for key in entry}
    print(name, sorted(logged))
    assert len(logged) > 4
    assert logged - {"step"} <= set(OF_ALL) | set(OF_DISTILLATION)
