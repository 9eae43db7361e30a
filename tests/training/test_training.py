"""The teacher's trainer: it learns, averages weights, accumulates, evaluates, logs, tells."""

from __future__ import annotations

import json
from itertools import count

import pytest
import torch
from safetensors.torch import load_file
from training_runs import At, differing, digits, means_of, probe, rows, teaching, tiny, weights
from transformers import AutoModelForMaskedLM

from hf_ddistill.objectives import NELBO


def learned(folder, model, labels=False):
    """The bound on held-out images before and after a short training."""
    trainer = teaching(
        folder,
        model,
        rows(512, labels=labels),
        eval_dataset=rows(100, held_out=True, labels=labels),
        max_steps=60,
        per_device_train_batch_size=32,
        learning_rate=0.02,
        ema_decay=0.9,
    )
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    return before, trainer.evaluate()["eval_loss"]


def test_training_lowers_the_held_out_bound_and_class_labels_lower_it_more(tmp_path):
    before, after = learned(tmp_path, tiny())
    # What knowing the share of ink alone would give; the rate of each pixel is worth 0.2 more.
    ink = digits().held_out_tokens.double().mean()
    flat = float(-(ink * ink.log() + (1 - ink) * (1 - ink).log()))
    assert after < flat - 0.1 < before
    _, told = learned(tmp_path, tiny(num_classes=10), labels=True)
    assert told < after - 0.01


def test_accumulated_gradient_is_the_mean_of_the_micro_batches(tmp_path):
    objective = NELBO()
    trainer = teaching(
        tmp_path,
        data=rows(32),
        objective=objective,
        max_steps=1,
        per_device_train_batch_size=16,
        gradient_accumulation_steps=2,
        optim="sgd",
        learning_rate=1.0,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        logging_steps=1,
    )
    batches = []
    compute_loss = trainer.compute_loss

    def watched(model, inputs, **kwargs):
        batches.append(dict(inputs))
        return compute_loss(model, inputs, **kwargs)

    trainer.compute_loss = watched
    start = weights(trainer.model)
    trainer.train()
    assert len(batches) == 2

    trainer.state.global_step = 0
    twin = tiny()
    losses = [
        objective(trainer.training_record(twin, inputs, 0, micro))["student"]
        for micro, inputs in enumerate(batches)
    ]
    (sum(losses) / 2).backward()
    for name, parameter in twin.named_parameters():
        moved = start[name] - trainer.model.state_dict()[name]
        gradient = torch.zeros_like(moved) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(moved, gradient, atol=1e-6, rtol=1e-4)
    logged = trainer.state.log_history[0]["loss"]
    assert logged == pytest.approx(float(sum(losses).detach()) / 2, rel=1e-5)


def test_mean_of_weights_is_what_its_formula_says(tmp_path):
    raw = []
    trainer = teaching(tmp_path, max_steps=5, ema_decay=0.5, learning_rate=0.01)
    trainer.add_callback(At("on_step_end", lambda *_: raw.append(weights(trainer.model))))
    expected = {name: value.double() for name, value in weights(trainer.model).items()}
    trainer.train()
    for step, now in enumerate(raw, 1):
        decay = min(0.5, (1 + step) / (10 + step))
        expected = {n: decay * v + (1 - decay) * now[n].double() for n, v in expected.items()}
    for name, value in trainer.average.mean.items():
        torch.testing.assert_close(value.double(), expected[name], atol=1e-6, rtol=1e-5)


def test_the_mean_is_saved_and_evaluated_and_a_checkpoint_holds_the_raw_weights(tmp_path):
    held_out = rows(40, held_out=True)
    trainer = teaching(
        tmp_path,
        eval_dataset=held_out,
        max_steps=6,
        save_strategy="steps",
        save_steps=6,
        learning_rate=0.02,
    )
    trainer.train()
    raw, mean = weights(trainer.model), trainer.average.mean
    assert differing(raw, mean)
    evaluated = trainer.evaluate()["eval_loss"]
    assert not differing(weights(trainer.model), raw)

    trainer.save_model(str(tmp_path / "final"))
    assert not differing(load_file(tmp_path / "final" / "model.safetensors"), mean)
    assert not differing(load_file(tmp_path / "checkpoint-6" / "model.safetensors"), raw)

    losses = {}
    for name in ("final", "checkpoint-6"):
        model = AutoModelForMaskedLM.from_pretrained(tmp_path / name)
        losses[name] = teaching(tmp_path, model, eval_dataset=held_out, ema_decay=0).evaluate()
    assert losses["final"]["eval_loss"] == evaluated != losses["checkpoint-6"]["eval_loss"]


def test_a_folder_that_is_named_like_a_checkpoint_is_saved_like_any_other(tmp_path):
    trainer = teaching(tmp_path, learning_rate=0.02)
    trainer.train()
    trainer.save_model(str(tmp_path / "checkpoints"))
    assert not differing(
        load_file(tmp_path / "checkpoints" / "model.safetensors"), trainer.average.mean
    )
    assert (tmp_path / "checkpoints" / "README.md").exists()


def test_best_checkpoint_brings_back_its_mean(tmp_path):
    means, rank = {}, count()
    trainer = teaching(
        tmp_path,
        eval_dataset=rows(40, held_out=True),
        max_steps=6,
        save_strategy="steps",
        eval_strategy="steps",
        save_steps=2,
        eval_steps=2,
        load_best_model_at_end=True,
        metric_for_best_model="rank",
        greater_is_better=False,
        num_eval_samples=1,
        sample_metrics=lambda samples: {"rank": next(rank)},
    )
    keep = At("on_save", lambda s, _: means.update({s.global_step: means_of(trainer)}))
    trainer.add_callback(keep)
    trainer.train()
    assert trainer.state.best_global_step == 2
    assert not differing(trainer.average.mean, means[2]) and differing(means[2], means[6])


def test_evaluation_and_logging_change_no_bit_of_the_training(tmp_path):
    settings = {
        "objective": "nelbo",
        "max_steps": 5,
        "per_device_train_batch_size": 16,
        "learning_rate": 0.01,
    }
    model = {"dropout": 0.2, "attention_dropout": 0.2}
    silent = teaching(tmp_path / "silent", tiny(**model), **settings)
    silent.train()
    watched = teaching(
        tmp_path / "watched",
        tiny(**model),
        eval_dataset=rows(20, held_out=True),
        eval_strategy="steps",
        eval_steps=1,
        logging_steps=1,
        num_eval_samples=4,
        sample_steps=2,
        sample_metrics=lambda samples: {"noise": torch.rand(())},
        **settings,
    )
    watched.train()
    assert not differing(weights(watched.model), weights(silent.model))
    assert not differing(watched.average.mean, silent.average.mean)


def test_each_step_logs_the_parts_of_its_own_loss(tmp_path):
    trainer = teaching(
        tmp_path,
        max_steps=4,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=2,
        logging_steps=1,
    )
    trainer.train()
    records = [r for r in trainer.state.log_history if "loss" in r]
    assert [r["step"] for r in records] == [1, 2, 3, 4]
    for record in records:
        assert record["cross_entropy"] > 0
        assert "student_loss" not in record
    assert len({r["loss"] for r in records}) == 4


def test_samples_of_an_evaluation_are_written_and_judged(tmp_path):
    judged = []

    def ink(samples):
        judged.append(samples)
        return {"ink": samples.double().mean()}

    trainer = teaching(
        tmp_path,
        eval_dataset=rows(20, held_out=True),
        max_steps=2,
        num_eval_samples=20,
        per_device_eval_batch_size=8,
        sample_steps=3,
        sample_metrics=ink,
        eval_strategy="steps",
        eval_steps=1,
        metric_for_best_model="ink",
    )
    calls = []
    trainer.model.register_forward_hook(lambda _, inputs, out: calls.append(len(out.logits)))
    metrics = trainer.evaluate()
    # Three batches of held-out rows, and three batches of samples with three calls each.
    assert len(calls) == 3 + 3 * 3
    assert metrics["eval_ink"] == pytest.approx(float(judged[0].double().mean()))
    trainer.train()
    assert all(samples.shape == (20, 64) and int(samples.max()) < 2 for samples in judged)
    logged = [r["eval_ink"] for r in trainer.state.log_history if "eval_ink" in r]
    assert logged == [float(s.double().mean()) for s in judged[1:]]
    assert trainer.state.best_metric in logged
    for step, samples in enumerate(judged):
        record = json.loads((tmp_path / "samples" / f"{step}.json").read_text())
        assert (record["step"], record["nfe"]) == (step, 3)
        assert record["samples"] == samples[:16].tolist()


def test_held_out_noise_is_the_same_at_each_evaluation_and_for_each_data_set(tmp_path):
    held_out = rows(20, held_out=True)
    trainer = teaching(tmp_path, eval_dataset={"a": held_out, "b": held_out})
    metrics = trainer.evaluate()
    assert metrics["eval_a_loss"] == metrics["eval_b_loss"]
    assert trainer.evaluate()["eval_b_loss"] == metrics["eval_a_loss"]


def test_corruption_is_drawn_afresh_in_each_epoch(tmp_path):
    objective = probe()
    teaching(
        tmp_path, data=rows(4), objective=objective, max_steps=6, per_device_train_batch_size=4
    ).train()
    sorted_states = []
    for x_0, x_t, _ in objective.seen:
        order = sorted(range(4), key=lambda i, x_0=x_0: x_0[i].tolist())
        sorted_states.append((x_0[order], x_t[order]))
    assert all(torch.equal(x_0, sorted_states[0][0]) for x_0, _ in sorted_states)
    masks = [tuple((x_t == 2).flatten().tolist()) for _, x_t in sorted_states]
    assert len(set(masks)) == 6


def test_bfloat16_autocast_gives_finite_losses(tmp_path):
    model, dtypes = tiny(), set()
    model.lm_head.register_forward_hook(lambda _, inputs, out: dtypes.add(out.dtype))
    trainer = teaching(tmp_path, model, bf16=True, logging_steps=1, max_steps=3)
    trainer.train()
    assert dtypes == {torch.bfloat16}
    assert all(p.dtype == torch.float32 for p in model.parameters())
    losses = [r["loss"] for r in trainer.state.log_history if "loss" in r]
    assert len(losses) == 3 and all(0 < loss < 5 for loss in losses)
    assert trainer.sample(2, 2).shape == (2, 64)
