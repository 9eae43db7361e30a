"""What is no number ends a run with an error, not with a saved model."""

from __future__ import annotations

import math

import pytest
import torch
from stopped_runs import end_at
from training_runs import At, differing, distilling, matching, rows, teaching, tiny, weights

from hf_ddistill.training.checkpoints import checkpoints_in, damage

SAVED = {"max_steps": 3, "save_strategy": "steps", "save_steps": 1}


def spoil_gradient(trainer, parameter, step, value):
    """Of one weight, at one optimizer step."""
    parameter.register_hook(
        lambda grad: grad * value if trainer.state.global_step == step else grad
    )


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("step", [0, 2])
def test_gradient_that_is_no_number_reaches_no_weights_in_the_last_step_either(
    tmp_path, value, step
):
    trainer = teaching(tmp_path, tiny(), rows(16), **SAVED)
    before = {}
    keep = At("on_step_end", lambda *_: before.update(weights(trainer.model)))
    trainer.add_callback(keep)
    spoil_gradient(trainer, trainer.model.lm_head.weight, step, value)
    with pytest.raises(ValueError, match=f"gradient of the model has the norm .* at step {step}"):
        trainer.train()
    assert step == 0 or not differing(weights(trainer.model), before)
    assert all(w.isfinite().all() for w in weights(trainer.model).values())
    assert all(w.isfinite().all() for w in trainer.average.mean.values())
    assert [damage(path) for path in checkpoints_in(tmp_path)] == [None] * step


def test_gradient_of_the_auxiliary_that_is_no_number_is_an_error(tmp_path):
    trainer = distilling(tmp_path, tiny(), rows(16), objective=matching(), collapse_share=0)
    before = weights(trainer.auxiliaries.models["auxiliary"])
    spoil_gradient(trainer, trainer.auxiliaries.models["auxiliary"].lm_head.weight, 0, math.nan)
    with pytest.raises(ValueError, match="gradient of the auxiliary has the norm nan at step 0"):
        trainer.train()
    assert not differing(weights(trainer.auxiliaries.models["auxiliary"]), before)


def test_weights_that_are_no_numbers_are_not_saved(tmp_path):
    trainer = teaching(tmp_path, tiny(), rows(16), **SAVED)

    def spoil(state, control):
        if state.global_step == 3:
            with torch.no_grad():
                trainer.model.lm_head.weight[0, 0] = math.nan

    trainer.add_callback(At("on_step_end", spoil))
    told = r"Weights are infinite or NaN after step 3 \(lm_head.weight\)"
    with pytest.raises(ValueError, match=told):
        trainer.train()
    assert [path.name for path in checkpoints_in(tmp_path)] == ["checkpoint-2", "checkpoint-1"]
    with pytest.raises(ValueError, match=told):
        trainer.save_model(str(tmp_path / "final"))
    assert not (tmp_path / "final").exists()


def test_weights_that_are_no_numbers_at_the_end_are_an_error_without_checkpoints(tmp_path):
    trainer = teaching(tmp_path, tiny(), rows(16), max_steps=1)

    def spoil(state, control):
        trainer.average.mean["lm_head.weight"][0, 0] = math.inf

    trainer.add_callback(At("on_step_end", spoil))
    with pytest.raises(ValueError, match=r"after step 1 \(ema.lm_head.weight\)"):
        trainer.train()


def test_teacher_logs_its_loss_once(tmp_path):
    trainer = teaching(tmp_path, tiny(), rows(16), logging_steps=1, callbacks=[end_at(1)])
    trainer.train()
    record = trainer.state.log_history[0]
    assert "loss" in record and "student_loss" not in record and "cross_entropy" in record
