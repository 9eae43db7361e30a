"""A student that is far ahead of its teacher in one call, and behind it in two, is no student to be
given up: one call is what it was distilled for."""

from __future__ import annotations

import functools
import tempfile
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from test_guard import all_of, quietly
from test_guard_loss import ROWS, knows_both, read_wrongly
from training_runs import At, differing, distilling, stop_after, weights

from hf_ddistill.objectives import Objective
from hf_ddistill.training.callbacks import guard
from hf_ddistill.training.fewer_calls import in_words
from hf_ddistill.training.good_weights import GoodStep
from hf_ddistill.training.likeness import Rows
from hf_ddistill.training.samples import draw_samples
from hf_ddistill.training.told_apart import told_apart

#: Of two letters that are equal a teacher draws half wrong in one call, and none in two.
NOISE = {"noise_dim": 2, "noise_std": 3.0, "student_steps": 2, "per_device_train_batch_size": 32}


def trainer_of(folder, objective="law_matching", **settings):
    data = [{"input_ids": row} for row in 8 * ROWS.tolist()]
    return distilling(folder, knows_both(), data, objective=objective, **NOISE | settings)


@functools.cache
def ahead_in_one_call():
    """The weights of a student by law matching for one call and two, whose second call takes each
    letter that the first one drew for the other."""
    torch.manual_seed(0)
    settings = {"max_steps": 80, "learning_rate": 5e-3, "ema_decay": 0, "collapse_share": 0.0}
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(folder, **settings)
        trainer.train()
    read_wrongly(trainer.model)
    return weights(trainer.model)


def unlike(denoiser, calls):
    """The share of samples whose letters differ, which no row of the data has."""
    noise = torch.Generator().manual_seed(0)
    first, second = draw_samples(denoiser, (1000, 2), calls, 1000, noise).unbind(1)
    return float((first != second).float().mean())


def becoming(folder, change, at=11, **settings):
    """A run that nothing moves but a change of its weights before one of its steps."""

    def act(state, control):
        if state.global_step == at:
            change(trainer.model)

    callbacks = [At("on_step_begin", act), *settings.pop("callbacks", [])]
    given = {"max_steps": 12, "ema_decay": 0, "learning_rate": 1e-9, "auxiliary_lag": 0}
    trainer = trainer_of(folder, callbacks=callbacks, **given | settings)
    return trainer


def become_ahead(model):
    model.load_state_dict(ahead_in_one_call())


@torch.no_grad()
def become_ruined(model):
    """Worse at both: one letter more often than the other, and read for the other."""
    read_wrongly(model)
    model.noise_proj.weight.zero_()
    model.lm.cls.predictions.bias[0] += 1.5


def test_student_that_is_ahead_in_one_call_is_given_up_for_what_it_is_in_two(tmp_path):
    trainer = becoming(tmp_path, become_ahead)
    teacher = [unlike(trainer.teacher, calls) for calls in (1, 2)]
    (said,) = quietly(trainer)
    own = [unlike(trainer.denoiser(trainer.model.eval()), calls) for calls in (1, 2)]
    assert own[0] < 0.2 < 0.4 < teacher[0], "ahead in one call"
    assert teacher[1] < 0.35 < 0.4 < own[1], "and behind in two"
    last = "at 1 call it is ahead of its teacher, at 2 its teacher is: sample it in 1"
    assert "worse than the teacher's at 2 calls" in said and last in said
    assert trainer.guard.report().startswith(f"A{last[1:]}")
    assert trainer.facts().training["calls"] == last
    for name, weight in weights(trainer.model).items():
        torch.testing.assert_close(weight, ahead_in_one_call()[name], atol=1e-5, rtol=0)


def test_student_that_is_ruined_at_all_its_calls_is_kept(tmp_path):
    trainer = becoming(tmp_path, become_ruined)
    (said,) = quietly(trainer)
    assert "its weights are its teacher's own" in said and trainer.guard.last.is_teacher
    assert "nearer at no fewer calls (1)" in said
    assert "calls" not in trainer.facts().training
    assert unlike(trainer.denoiser(trainer.model.eval()), 2) < 0.35


def test_student_that_is_trained_for_two_calls_alone_is_kept_for_one(tmp_path):
    only = {"type": "law_matching", "steps": "only"}
    trainer = becoming(tmp_path, become_ahead, objective=only)
    (said,) = quietly(trainer)
    assert "its weights are its teacher's own" in said


def on_the_way(folder, **settings):
    """One that is so from step 9 on, and looked at in steps 10 and 20."""
    given = {"max_steps": 22, "noise_std": 0.3, "per_device_train_batch_size": 64}
    return becoming(folder, become_ahead, at=9, **given | settings)


def test_student_that_is_ahead_in_one_call_is_stepped_back_for_two_on_the_way(tmp_path):
    """And the step before, which was as near as the teacher in two calls and no more, is the one to
    go back to."""
    trainer = on_the_way(tmp_path)
    with mock.patch.object(guard, "MANY_ERRORS", 0.5):
        (said,) = quietly(trainer)
    assert "sample it in 1" in said and "collapses" not in said
    assert trainer.guard.good.leads and trainer.guard.good.step == 20
    assert trainer.guard.rate == 1


def test_run_that_goes_on_keeps_what_the_whole_one_does(tmp_path):
    with mock.patch.object(guard, "MANY_ERRORS", 0.5):
        whole = on_the_way(tmp_path / "whole")
        said = quietly(whole)
        quietly(on_the_way(tmp_path, callbacks=[stop_after(12)]))
        resumed = on_the_way(tmp_path)
        assert quietly(resumed, resume_from_checkpoint=True) == said
    assert resumed.guard.good.leads
    assert differing(all_of(resumed), all_of(whole)) == []


def test_steps_that_are_merely_near_take_the_place_of_one_that_leads(tmp_path):
    own = trainer_of(tmp_path).guard
    own.comparison = SimpleNamespace(teacher=SimpleNamespace(distance=0.0))
    near, far = (SimpleNamespace(distance=each) for each in (-0.1, 0.6))
    own.good = GoodStep({}, 10, 0.3, near=False, leads=True)
    assert not own._is_good(near, False, 0.1)
    assert own._is_good(SimpleNamespace(distance=0.2), True, 0.1)
    assert not own._is_good(far, True, 0.1), "two errors farther"
    own.good = GoodStep({}, 10, 0.0, near=True)
    assert own._is_good(near, False, 0.1)
    assert own._is_good(far, True, 0.1)


def test_numbers_of_calls_that_an_objective_serves():
    def of(config, calls):
        return Objective.from_config(config).fewer_calls(calls)

    assert of("law_matching", 8) == (1, 2, 4) and of("law_matching", 6) == (1, 2, 4)
    assert of("distribution_matching", 1) == of({"type": "law_matching", "steps": "only"}, 8) == ()
    assert of({"type": "distribution_matching", "setting": "di_mo"}, 4) == of("lsd", 4) == ()


def test_words_say_where_neither_is_seen_ahead():
    assert in_words({1: -9.0, 2: -2.5, 4: 0.3}, 8) == (
        "at 1 and 2 calls it is ahead of its teacher, at 4 neither is seen to be, at 8 its teacher "
        "is: sample it in 1 or 2"
    )


def test_whole_rows_are_told_apart_where_single_tokens_are_as_frequent():
    generator = torch.Generator().manual_seed(0)
    alike, other = (torch.randint(2, (200, 1), generator=generator) for _ in range(2))
    apart = torch.randint(2, (200, 2), generator=generator)
    data, samples, independent = (
        Rows(rows, torch.ones_like(rows, dtype=torch.bool))
        for rows in (alike.expand(200, 2), other.expand(200, 2), apart)
    )
    good, bad = told_apart(samples, data), told_apart(independent, data)
    assert good.auc < 0.6 and bad.auc == pytest.approx(0.75, abs=0.08)
    beyond, error = bad.beyond(good)
    assert beyond > 4 * error > 0
    hidden = Rows(apart, torch.zeros_like(data.where))
    assert told_apart(hidden, hidden).auc == 0.5, "what does not count tells nothing"
