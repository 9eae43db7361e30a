"""The trainer with a teacher: who learns, who stays, and rounds in which the two change places."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig
from training_runs import At, differing, distilling, means_of, probe, rows, teaching, tiny, weights

from hf_ddistill.denoisers import Guided
from hf_ddistill.models import as_denoiser
from hf_ddistill.objectives import Frozen

DROPOUT = {"dropout": 0.3, "attention_dropout": 0.3}


def test_teacher_has_no_gradient_and_does_not_change(tmp_path):
    teacher = tiny(**DROPOUT)
    before = weights(teacher)
    trainer = distilling(tmp_path, teacher, learning_rate=0.01)
    start = weights(trainer.model)
    trainer.train()
    assert not differing(weights(teacher), before) and not teacher.training
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    assert differing(weights(trainer.model), start)


def test_half_precision_is_warned_of_twice(tmp_path):
    with pytest.warns(UserWarning, match="most will not move") as seen:
        distilling(tmp_path, model=tiny().bfloat16())
    assert sum("most will not move" in str(warning.message) for warning in seen) == 1


def test_student_learns_the_law_of_its_teacher(tmp_path):
    settings = {"max_steps": 60, "per_device_train_batch_size": 32, "learning_rate": 0.02}
    settings |= {"ema_decay": 0.9, "eval_dataset": rows(100, held_out=True)}
    teacher = teaching(tmp_path, data=rows(512), **settings)
    teacher.train()
    student = tiny(seed=1)

    def bound():
        return teaching(tmp_path, student, **settings).evaluate()["eval_loss"]

    before = bound()
    distilling(tmp_path, teacher.model, rows(512), model=student, **settings).train()
    assert bound() < teacher.evaluate()["eval_loss"] + 0.1 < before


def test_copy_of_a_frozen_teacher_is_trained(tmp_path):
    teacher = tiny().requires_grad_(False)
    trainer = distilling(tmp_path, teacher, learning_rate=0.01)
    trainer.train()
    assert set(differing(weights(trainer.model), weights(teacher))) == set(weights(teacher))


def test_student_is_evaluated_with_its_own_number_of_calls(tmp_path):
    trainer = distilling(
        tmp_path,
        eval_dataset=rows(8, held_out=True),
        student_steps=3,
        num_eval_samples=10,
        per_device_eval_batch_size=8,
    )
    calls = []
    trainer.model.register_forward_hook(lambda *_: calls.append(1))
    trainer.evaluate()
    assert len(calls) == 1 + 2 * 3
    assert trainer.model.config.discrete_diffusion["num_inference_steps"] == 3


def test_evaluation_changes_nothing_that_the_objective_remembers(tmp_path):
    objective = {"type": "ecd", "times": {"type": "adaptive_times"}}
    ended = []
    for often in ({}, {"eval_strategy": "steps", "eval_steps": 1}):
        trainer = distilling(
            tmp_path, objective=objective, eval_dataset=rows(20, held_out=True), **often
        )
        trainer.train()
        ended.append(weights(trainer.model) | trainer.memory.tensors)
    assert {"adaptive_times.squares"} <= ended[0].keys()
    assert not differing(*ended)


def test_each_round_has_half_the_steps_and_the_averaged_student_as_its_teacher(tmp_path):
    steps, teachers, means = [], [], []
    trainer = distilling(
        tmp_path, model=tiny(1), rounds=3, student_steps=2, max_steps=6, learning_rate=0.01
    )
    assert trainer.student_steps == 2  # of an evaluation before any training
    start = weights(trainer.teacher_model)

    def look(state, control):
        steps.append(trainer.student_steps)
        teachers.append(weights(trainer.teacher_model))
        means.append(means_of(trainer))

    trainer.add_callback(At("on_step_begin", look))
    trainer.train()
    assert steps == [8, 8, 4, 4, 2, 2]
    for step, expected in enumerate([start, start, means[2], means[2], means[4], means[4]]):
        assert not differing(teachers[step], expected)
    assert not differing(weights(trainer.teacher_model), means[4])
    assert trainer.student_steps == 2


def test_rounds_that_do_not_divide_the_steps_are_refused(tmp_path):
    with pytest.raises(ValueError, match="max_steps=7 is no multiple of it: take 6 or 9 steps"):
        distilling(tmp_path, model=tiny(1), rounds=3, max_steps=7)
    with pytest.raises(ValueError, match="no multiple of it: take 3 steps"):
        distilling(tmp_path, model=tiny(1), rounds=3, max_steps=2)
    # Two epochs of eight rows, four in a batch, are four steps.
    epochs = {"max_steps": -1, "num_train_epochs": 2, "per_device_train_batch_size": 4}
    trainer = distilling(tmp_path, model=tiny(1), data=rows(8), rounds=5, **epochs)
    with pytest.raises(ValueError, match="for each round at least, and the epochs come to 4"):
        trainer.train()


def test_auxiliary_starts_each_round_as_a_copy_of_its_teacher(tmp_path):
    trainer = distilling(
        tmp_path, objective="law_matching", rounds=2, max_steps=4, learning_rate=0.01
    )
    same = []

    def look(state, control):
        teacher, auxiliary = trainer.teacher_model, trainer.auxiliaries.models["auxiliary"]
        same.append(not differing(weights(teacher), weights(auxiliary)))

    trainer.add_callback(At("on_step_begin", look))
    start = weights(trainer.teacher_model)
    trainer.train()
    assert same == [True, False, True, False]
    assert differing(weights(trainer.teacher_model), start)


def test_rounds_are_refused_where_the_student_cannot_become_the_teacher(tmp_path):
    refused = pytest.raises(ValueError, match="With rounds > 1 the teacher takes on the student's")
    with refused:
        distilling(tmp_path, rounds=3, peft_config=LoraConfig(target_modules=["qkv"]))
    with refused:
        distilling(tmp_path, as_denoiser(tiny()), model=tiny(), rounds=3)
    with refused:
        distilling(tmp_path, model=tiny(hidden_size=8), rounds=3)
    with refused:
        distilling(
            tmp_path, None, model=tiny(), rounds=3, peft_config=LoraConfig(target_modules=["qkv"])
        )


def test_guided_teacher_is_taken_as_it_is(tmp_path):
    teacher = as_denoiser(tiny(num_classes=10))
    guided = Guided(teacher, 1.0)
    trainer = distilling(
        tmp_path, guided, rows(64, labels=True), model=tiny(num_classes=10), learning_rate=0.01
    )
    calls = []
    teacher.network.model.register_forward_hook(lambda *_: calls.append(1))
    trainer.train()
    assert len(calls) == 2 * 3


def test_peer_ema_is_the_mean_and_leaves_the_graph_of_the_student_whole(tmp_path):
    objective, outputs = probe(), []

    def call(self, step):
        t = torch.full((len(step.x_0),), 0.5)
        x_t = step.diffusion.corrupt(step.x_0, t, step.generator)
        student = step.student(x_t, t).log_conditional
        mean = step.peers["ema"](x_t, t).log_conditional
        outputs.append((x_t, mean, student.detach()))
        return {
            "student": (student.exp() * (student - mean)).sum(-1).mean() - student[..., 0].mean()
        }

    changed = type(
        "_Ema", (type(objective),), {"__call__": call, "networks": {"ema": Frozen(mean=True)}}
    )()
    trainer = distilling(
        tmp_path, tiny(**DROPOUT), objective=changed, max_steps=3, learning_rate=0.05
    )
    means = [means_of(trainer)]
    trainer.add_callback(At("on_step_end", lambda *_: means.append(means_of(trainer))))
    trainer.train()
    assert trainer.model.training
    twin = tiny(**DROPOUT).eval()
    for (x_t, mean, student), expected in zip(outputs, means, strict=False):
        twin.load_state_dict(expected)
        again = as_denoiser(twin)(x_t, torch.full((len(x_t),), 0.5)).log_conditional
        torch.testing.assert_close(mean, again)
        assert not torch.equal(mean, student)
    with pytest.raises(ValueError, match="needs the mean of weights: set ema_decay above 0"):
        distilling(tmp_path, objective=changed, ema_decay=0)


def test_bfloat16_autocast_reaches_student_and_teacher(tmp_path):
    teacher, dtypes = tiny(), []
    for _ in range(2):  # a second run with the same teacher, which the first has wrapped
        trainer = distilling(tmp_path, teacher, bf16=True, logging_steps=1)
        for model in (trainer.model, teacher):
            model.lm_head.register_forward_hook(lambda _, inputs, out: dtypes.append(out.dtype))
        trainer.train()
        losses = [r["loss"] for r in trainer.state.log_history if "loss" in r]
        assert len(losses) == 3 and all(0 < loss < 5 for loss in losses)
    assert set(dtypes) == {torch.bfloat16}
