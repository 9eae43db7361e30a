"""A network that is trained beside the student: who moves when, and what is kept of it."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from training_runs import At, differing, distilling, matching, rows, stop_after, tiny, weights

from hf_ddistill.models import as_denoiser

SETTINGS = {"learning_rate": 0.01, "auxiliary_learning_rate": 0.02, "logging_steps": 1}


def run(folder, *given, objective=None, **settings):
    """A trainer with an auxiliary; `given` are a teacher and data."""
    objective = matching() if objective is None else objective
    # The entropies of the toy are what they are.
    return distilling(
        folder, *given, objective=objective, **SETTINGS | {"collapse_share": 0} | settings
    )


def changed(call):
    """The toy objective with another `__call__`, which gets (the toy's, the objective, step)."""
    plain = type(matching())

    def wrapper(self, step):
        return call(plain.__call__, self, step)

    return type("_Changed", (plain,), {"__call__": wrapper})()


def histories(trainer):
    """Student, auxiliary, mean and the student's moments at the start and after each step."""

    def now():
        inner = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
        state = {} if inner is None else inner.state
        moments = {
            f"{name}.{key}": torch.as_tensor(value).clone()
            for name, p in trainer.model.named_parameters()
            for key, value in state.get(p, {}).items()
        }
        parts = (
            weights(trainer.model),
            weights(trainer.auxiliaries.models["auxiliary"]),
            {name: mean.clone() for name, mean in trainer.average.mean.items()},
        )
        return dict(zip(("student", "auxiliary", "mean"), parts, strict=True), moments=moments)

    kept = [now()]
    trainer.add_callback(At("on_step_end", lambda *_: kept.append(now())))
    trainer.train()
    return kept


def moved(history, part):
    """In which steps a part changed."""
    pairs = zip(history[:-1], history[1:], strict=True)
    return [bool(differing(one[part], other[part])) for one, other in pairs]


@pytest.mark.parametrize("limit", [1.0, 0.0])
def test_student_stands_still_bit_for_bit_in_the_steps_of_the_auxiliary_alone(tmp_path, limit):
    objective = matching()
    settings = {"auxiliary_warmup_steps": 2, "auxiliary_updates": 2, "max_steps": 7}
    # Weight decay and momentum are what moves a parameter without a gradient.
    settings |= {"weight_decay": 0.1, "max_grad_norm": limit, "objective": objective}
    trainer = run(tmp_path, gradient_accumulation_steps=2, **settings)
    history = histories(trainer)
    turns = [False, False, False, True, False, True, False]
    for part in ("student", "mean", "moments"):
        assert moved(history, part) == turns, part
    assert moved(history, "auxiliary") == [True] * 7
    given = ["student" in train for train, *_ in objective.seen]
    assert given == [turn for turn in turns for _ in range(2)]
    logged = [r for r in trainer.state.log_history if "loss" in r]
    assert ["student_loss" in r for r in logged] == turns
    assert all({"auxiliary_loss", "auxiliary_grad_norm"} <= r.keys() for r in logged)


def test_mean_of_weights_counts_updates_of_the_student_alone(tmp_path):
    trainer = run(tmp_path, auxiliary_warmup_steps=3, auxiliary_updates=2, max_steps=7)
    history = histories(trainer)
    expected = {name: value.double() for name, value in history[0]["student"].items()}
    for update, step in enumerate((5, 7), 1):
        decay = (1 + update) / (10 + update)
        now = history[step]["student"]
        expected = {n: decay * v + (1 - decay) * now[n].double() for n, v in expected.items()}
        for name, value in history[step]["mean"].items():
            torch.testing.assert_close(value.double(), expected[name], atol=1e-6, rtol=1e-5)


def test_losses_of_networks_that_wait_are_dropped_and_reach_no_weights(tmp_path):
    def leaking(plain, self, step):
        every = type(step)(**vars(step) | {"train": frozenset({"student", "auxiliary"})})
        losses = plain(self, every)
        return {name: sum(losses.values()) for name in losses}

    trainer = run(tmp_path, objective=changed(leaking), auxiliary_warmup_steps=2, max_steps=4)
    assert moved(histories(trainer), "student") == [False, False, True, True]
    assert "student_loss" not in trainer.state.log_history[0]

    def silent(plain, self, step):
        return {"student": plain(self, step)["student"]} if "student" in step.train else {}

    with pytest.raises(ValueError, match="gives no loss at step 0 for a network that is updated"):
        run(tmp_path, objective=changed(silent), auxiliary_warmup_steps=1).train()


@pytest.mark.slow
def test_each_network_is_clipped_by_itself(tmp_path):
    def scaled(plain, self, step):
        losses = plain(self, step)
        return losses | {"auxiliary": 1000 * losses["auxiliary"]}

    settings = {"optim": "sgd", "lr_scheduler_type": "constant", "max_steps": 1}
    settings |= {"learning_rate": 1.0, "auxiliary_learning_rate": 1.0}

    def lengths(limit, objective):
        history = histories(run(tmp_path, objective=objective, max_grad_norm=limit, **settings))
        return [
            torch.stack([(history[1][p][n] - v).norm() for n, v in history[0][p].items()]).norm()
            for p in ("student", "auxiliary")
        ]

    free = lengths(0.0, matching())
    both = lengths(float(free[0]) / 2, changed(scaled))
    assert float(both[0]) == pytest.approx(float(free[0]) / 2, rel=1e-3)
    assert float(both[1]) == pytest.approx(float(free[0]) / 2, rel=1e-3)
    loose = lengths(2 * max(map(float, free)), matching())
    torch.testing.assert_close(loose, free, rtol=1e-3, atol=0)


def test_gradient_of_the_auxiliary_is_that_of_its_own_step(tmp_path):
    objective, batches = matching(), []
    trainer = run(
        tmp_path,
        objective=objective,
        max_steps=3,
        gradient_accumulation_steps=2,
        optim="sgd",
        auxiliary_learning_rate=0.1,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        auxiliary_warmup_steps=2,
    )
    compute_loss = trainer.compute_loss

    def watched(model, inputs, **kwargs):
        batches.append(dict(inputs))
        return compute_loss(model, inputs, **kwargs)

    trainer.compute_loss = watched
    history = histories(trainer)
    twin = tiny()
    for step in (0, 1):
        twin.load_state_dict(history[step]["auxiliary"])
        twin.zero_grad()
        trainer.state.global_step = step
        for micro in (0, 1):
            record = trainer.training_record(tiny(), batches[2 * step + micro], step, micro)
            peers = {**record.peers, "auxiliary": as_denoiser(twin)}
            record = type(record)(**vars(record) | {"peers": peers})
            (objective(record)["auxiliary"] / 2).backward()
        for name, parameter in twin.named_parameters():
            difference = history[step]["auxiliary"][name] - history[step + 1]["auxiliary"][name]
            torch.testing.assert_close(difference, 0.1 * parameter.grad, atol=1e-6, rtol=1e-3)


def test_auxiliary_has_settings_of_its_own_and_the_schedule_of_the_student(tmp_path):
    trainer = run(
        tmp_path,
        auxiliary_beta1=0.25,
        weight_decay=0.1,
        warmup_steps=2,
        max_steps=6,
        adam_beta2=0.9,
    )
    rates = []

    def look(state, control):
        rates.append([group["lr"] for group in trainer.optimizer.param_groups])

    trainer.add_callback(At("on_step_begin", look))
    trainer.train()
    groups = trainer.optimizer.param_groups
    assert [group["betas"] for group in groups] == [(0.9, 0.9)] * 2 + [(0.25, 0.9)] * 2
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0, 0.1, 0.0]
    for part, model in (
        (groups[:2], trainer.model),
        (groups[2:], trainer.auxiliaries.models["auxiliary"]),
    ):
        held = [id(p) for group in part for p in group["params"]]
        assert sorted(held) == sorted(id(p) for p in model.parameters())
    factors = [0, 0.5, 1, 0.75, 0.5, 0.25]
    assert rates == [[pytest.approx(r * f) for r in (0.01, 0.01, 0.02, 0.02)] for f in factors]
    alone = run(tmp_path, auxiliary_learning_rate=None)
    alone.create_optimizer()
    assert [group["lr"] for group in alone.optimizer.param_groups] == [0.01] * 2 + [0.02] * 2


def test_auxiliary_is_a_trainable_copy_and_the_teacher_does_not_change(tmp_path):
    teacher = tiny(dropout=0.2).requires_grad_(False)
    before = weights(teacher)
    trainer = run(tmp_path, teacher)
    auxiliary = trainer.auxiliaries.models["auxiliary"]
    assert not differing(weights(auxiliary), before) and auxiliary is not teacher
    assert auxiliary.training and all(p.requires_grad for p in auxiliary.parameters())
    trainer.train()
    assert not differing(weights(teacher), before) and not teacher.training
    assert set(differing(weights(auxiliary), before)) == set(before)
    assert set(trainer.peers()) == {"teacher", "auxiliary"}
    assert set(distilling(tmp_path).peers()) == {"teacher"}


@pytest.mark.slow
def test_a_second_run_trains_on_with_the_same_optimizer(tmp_path):
    trainer = run(tmp_path)
    trainer.train()
    once = weights(trainer.auxiliaries.models["auxiliary"])
    trainer.train()
    assert len(trainer.optimizer.param_groups) == 4
    assert differing(weights(trainer.auxiliaries.models["auxiliary"]), once)


def test_auxiliary_is_in_checkpoints_and_in_nothing_that_is_shared(tmp_path):
    trainer = run(tmp_path, tiny(tie_word_embeddings=True), callbacks=[stop_after(2)])
    trainer.train()
    kept = load_file(tmp_path / "checkpoint-2" / "run_state.safetensors")
    auxiliary = {k[10:]: v for k, v in kept.items() if k.startswith("auxiliary.")}
    assert not differing(auxiliary, weights(trainer.auxiliaries.models["auxiliary"]))
    trainer.save_model(str(tmp_path / "final"))
    assert {path.name for path in (tmp_path / "final").iterdir()} == {
        *("config.json", "model.safetensors", "README.md")
    }
    saved = load_file(tmp_path / "final" / "model.safetensors")
    assert not differing(saved, {name: trainer.average.mean[name] for name in saved})
    card = (tmp_path / "final" / "README.md").read_text()
    assert "learning rate of the auxiliary" in card and "0.02" in card


def test_evaluation_has_both_losses_and_changes_no_bit_of_the_training(tmp_path):
    teacher = {"dropout": 0.3, "attention_dropout": 0.3}
    settings = {"max_steps": 4, "auxiliary_warmup_steps": 1, "auxiliary_updates": 2}
    ended = []
    for often in ({}, {"eval_strategy": "steps", "eval_steps": 1}):
        objective = matching()
        data = {"objective": objective, "eval_dataset": rows(20, held_out=True)}
        trainer = run(tmp_path, tiny(**teacher), **data, **settings | often)
        if often:
            trainer.evaluate()
            assert [len(found) for _, found, _ in objective.seen] == [2] * 3
        trainer.train()
        ended.append(weights(trainer.model) | weights(trainer.auxiliaries.models["auxiliary"]))
        again = [trainer.evaluate()["eval_loss"] for _ in "12"]
        assert again[0] == again[1]
        assert not trainer.auxiliaries.models["auxiliary"].training
    assert not differing(*ended)


def watched(folder, entropies, share=0.5, window=2):
    """Train with an objective that records the given entropies, the teacher's being 2."""
    given = iter(entropies)

    def call(plain, self, step):
        losses = plain(self, step)
        step.log("entropy", torch.tensor(next(given)))
        step.log("teacher_entropy", torch.tensor(2.0))
        return losses

    settings = {"max_steps": len(entropies), "logging_steps": window, "collapse_share": share}
    run(folder, objective=changed(call), **settings).train()


def test_collapse_is_warned_of_once_with_its_figures(tmp_path):
    # The mean of three steps counts, whenever it is logged: 1.0 is not below half of 2.0.
    figures = "at step 4 its samples have an entropy of 0.75 nats per token, below 0.5 of the 2 "
    with pytest.warns(UserWarning, match=figures) as caught:
        watched(tmp_path, [0.25, 1.75, 1.0, -0.5, 0.1, 0.1])
    assert len(caught) == 1


@pytest.mark.slow
def test_entropy_that_is_high_enough_and_a_watch_that_is_off_warn_of_nothing(tmp_path):
    watched(tmp_path, [0.25, 1.75, 1.5, 1.0])
    watched(tmp_path, [0.1, 0.1], share=0.0)


def test_card_and_checkpoint_of_a_run_without_auxiliary_say_nothing_of_it(tmp_path):
    trainer = distilling(tmp_path, callbacks=[stop_after(1)])
    trainer.train()
    assert not trainer.auxiliaries.networks and "auxiliary" not in json.dumps(
        trainer.facts().training
    )
    kept = load_file(tmp_path / "checkpoint-1" / "run_state.safetensors")
    assert not any(name.startswith("auxiliary") for name in kept)
