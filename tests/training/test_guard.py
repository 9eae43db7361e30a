"""A student that gets worse than its teacher goes back, and a run that goes on does the same."""

from __future__ import annotations

import warnings

import pytest
import torch
from test_collapse import falling, pretrained
from test_collapse import rows as sentences
from training_runs import At, differing, distilling, means_of, stop_after, weights

from hf_ddistill.training.good_weights import GoodWeights


def quietly(trainer, **resume):
    """Train, and give what was said."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.train(**resume)
    return [str(each.message) for each in caught if "student" in str(each.message)]


def all_of(trainer):
    """All that a run ends with."""
    parts = {"student": weights(trainer.model), "good": trainer.guard.kept()}
    parts["auxiliary"] = weights(trainer.auxiliaries.models["auxiliary"])
    for number, moments in trainer.optimizer.state_dict()["state"].items():
        parts[f"moments.{number}"] = moments
    return {f"{part}.{name}": v for part, values in parts.items() for name, v in values.items()}


@pytest.mark.slow
def test_run_that_was_set_back_and_is_resumed_is_bit_equal(tmp_path):
    torch.manual_seed(0)
    whole = falling(tmp_path / "whole", max_steps=13)
    said = quietly(whole)
    back = int(said[0].split("at step ")[1].split()[0])
    torch.manual_seed(0)
    quietly(falling(tmp_path, max_steps=13, callbacks=[stop_after(back + 1)]))
    assert back < 12
    torch.manual_seed(5)
    resumed = falling(tmp_path, max_steps=13)
    quietly(resumed, resume_from_checkpoint=True)
    assert differing(all_of(resumed), all_of(whole)) == []
    assert resumed.guard.rate == whole.guard.rate < 1


def test_student_that_is_worse_in_the_end_gives_way_to_its_last_good_weights(tmp_path):
    def destroy(state, control):
        if state.global_step == 11:
            with torch.no_grad():
                for weight in trainer.model.parameters():
                    weight.mul_(0)
                trainer.model.cls.predictions.bias[3] = 9  # a letter

    settings = {"max_steps": 12, "ema_decay": 0, "learning_rate": 1e-7, "student_steps": 2}
    settings |= {"per_device_train_batch_size": 16, "callbacks": [At("on_step_begin", destroy)]}
    trainer = distilling(tmp_path, pretrained(), sentences(), **settings)
    before = weights(trainer.model)
    (said,) = quietly(trainer)
    assert "worse than the teacher's" in said and "weights are those of step" in said
    for name, weight in weights(trainer.model).items():
        torch.testing.assert_close(weight, before[name], atol=1e-4, rtol=0)


def test_what_is_stepped_back_to_is_what_was_taken(tmp_path):
    trainer = falling(tmp_path, max_steps=3, ema_decay=0.5, collapse_share=0)
    quietly(trainer)
    taken_of = (trainer.model, trainer.average, trainer.auxiliaries.models, trainer.optimizer)
    good = GoodWeights(*taken_of)
    taken = good.take()
    mean = means_of(trainer)
    with torch.no_grad():
        for weight in trainer.model.parameters():
            weight.add_(1)
        for state in trainer.optimizer.state.values():
            state["exp_avg"].add_(1)
            state["step"].add_(1)
    good.put_back(taken)
    assert differing(good.take(), taken) == []
    assert differing(dict(trainer.model.named_parameters()), mean) == []


def test_optimizer_that_had_seen_nothing_has_seen_nothing_again(tmp_path):
    trainer = falling(tmp_path, max_steps=3, collapse_share=0)
    trainer.create_optimizer()
    taken_of = (trainer.model, None, trainer.auxiliaries.models, trainer.optimizer)
    taken = GoodWeights(*taken_of).take()
    quietly(trainer)
    assert trainer.optimizer.state
    GoodWeights(*taken_of[:3], trainer.optimizer).put_back(taken)
    assert not trainer.optimizer.state
