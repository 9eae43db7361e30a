"""A learning rate that nobody gave is that of the kind of student, in Python as on the command
line."""

from __future__ import annotations

import json
import logging

import pytest
from peft import LoraConfig
from test_collapse import pretrained
from test_collapse import rows as sentences
from training_runs import differing, distilling, matching, stop_after, teaching, tiny, weights

from hf_ddistill.training import DiscreteDistillationConfig, DiscreteDistillationTrainer

ADAPTERS = LoraConfig(r=2, target_modules=["query"])


def rates(trainer):
    """Of the groups of its optimizer."""
    return {group["lr"] for group in trainer.create_optimizer().param_groups}


@pytest.mark.parametrize("kind", ["ddit", "masked_lm", "noised", "adapters"])
def test_rate_that_is_not_given_is_that_of_the_student(tmp_path, kind, caplog):
    expected = {"ddit": 3e-4, "adapters": 2e-4}.get(kind, 5e-5)
    teacher, data, more = pretrained(), sentences(), {}
    if kind == "ddit":
        teacher, data = "tiny", None
    elif kind == "noised":
        more = {"noise_dim": 2}
    elif kind == "adapters":
        more = {"peft_config": ADAPTERS}
    with caplog.at_level(logging.WARNING, "hf_ddistill"):
        trainer = distilling(tmp_path, teacher, data, **more)
    assert trainer.args.learning_rate == expected
    assert rates(trainer) == {expected}
    (told,) = [each for each in caplog.messages if "learning_rate" in each]
    assert f"learning_rate={expected:g}" in told


def test_rate_that_is_given_is_taken_and_not_told(tmp_path, caplog):
    trainer = distilling(tmp_path, learning_rate=5e-5)
    assert trainer.args.learning_rate == 5e-5 and rates(trainer) == {5e-5}
    assert not caplog.messages


def test_auxiliary_has_twice_the_rate_that_was_chosen(tmp_path):
    trainer = distilling(tmp_path, objective=matching())
    assert rates(trainer) == {3e-4, 6e-4}


def test_settings_of_two_students_give_each_its_own_rate(tmp_path):
    args = DiscreteDistillationConfig(str(tmp_path), use_cpu=True, report_to=[])
    given = [(tiny(), [{"input_ids": [0] * 64}]), (pretrained(), sentences())]
    made = [
        DiscreteDistillationTrainer(teacher=teacher, objective="ecd", args=args, train_dataset=data)
        for teacher, data in given
    ]
    assert [each.args.learning_rate for each in made] == [3e-4, 5e-5]
    assert args.learning_rate is None
    assert json.loads(args.to_json_string())["learning_rate"] is None


def test_teacher_in_training_has_the_rate_of_transformers(tmp_path):
    assert teaching(tmp_path).args.learning_rate == 5e-5


def test_run_without_a_rate_is_resumed_with_the_same(tmp_path):
    whole = distilling(tmp_path / "whole", max_steps=4)
    whole.train()
    distilling(tmp_path, max_steps=4, callbacks=[stop_after(2)]).train()
    resumed = distilling(tmp_path, max_steps=4)
    resumed.train(resume_from_checkpoint=True)
    assert differing(weights(resumed.model), weights(whole.model)) == []
    with pytest.raises(ValueError, match="learning_rate was 0.0003 and is 5e-05"):
        distilling(tmp_path, max_steps=4, learning_rate=5e-5).train(resume_from_checkpoint=True)
