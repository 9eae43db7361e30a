"""Law matching in the trainer: every kind of student, and what a run of it logs and resumes."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig
from training_runs import differing, distilling, rows, stop_after, tiny, weights

SETTINGS = {"max_steps": 4, "learning_rate": 0.01, "auxiliary_learning_rate": 0.02}
SETTINGS |= {"auxiliary_warmup_steps": 1, "collapse_share": 0, "student_steps": 2}


def run(folder, *given, objective="law_matching", **settings):
    return distilling(folder, *given, objective=objective, **SETTINGS | settings)


def test_run_logs_its_reward_and_no_skipped_row(tmp_path):
    trainer = run(tmp_path, logging_steps=1)
    trainer.train()
    logged = [record for record in trainer.state.log_history if "loss" in record]
    assert ["reward" in record for record in logged] == [False, True, True, True]
    assert all(record["skipped"] == 0 and record["entropy"] > 0 for record in logged)
    assert all(record["auxiliary_loss"] > 0 for record in logged)


@pytest.mark.parametrize("gradient", ["pathwise", "policy"])
def test_student_with_a_new_noise_input_is_trained_by_every_gradient(tmp_path, gradient):
    objective = {"type": "law_matching", "gradient": gradient, "horizon": "rollout"}
    trainer = run(tmp_path, objective=objective, noise_dim=4, max_steps=3)
    start, auxiliary = weights(trainer.model), weights(trainer.auxiliaries.models["auxiliary"])
    trainer.train()
    assert "model.noise_proj.weight" in start
    assert set(differing(weights(trainer.model), start)) == set(start)
    assert set(differing(weights(trainer.auxiliaries.models["auxiliary"]), auxiliary)) == set(
        auxiliary
    )


def test_adapters_over_their_own_base_are_trained_and_nothing_else_of_the_student(tmp_path):
    adapters = LoraConfig(r=2, target_modules=["qkv", "up"], lora_dropout=0.1)
    base = tiny()
    trainer = run(tmp_path, None, model=base, peft_config=adapters)
    start = weights(trainer.model)
    trainer.train()
    moved = differing(weights(trainer.model), start)
    assert moved and all("lora" in name for name in moved)
    assert trainer.teacher_model is None
    trainer.save_model()
    names = {path.name for path in tmp_path.iterdir() if path.is_file()}
    # The base has no name, so that it is saved with them.
    assert names == {"adapter_config.json", "adapter_model.safetensors", "README.md"} | {
        "run.json",
        "base_config.json",
        "config.json",
        "model.safetensors",
    }


@pytest.mark.parametrize(
    ("step", "kind"),
    [
        (3, {"rounds": 2}),
        pytest.param(1, {"noise_dim": 4}, marks=pytest.mark.slow),
        pytest.param(3, {"noise_dim": 4}, marks=pytest.mark.slow),
        pytest.param(2, {"rounds": 2}, marks=pytest.mark.slow),
    ],
)
@pytest.mark.slow
def test_resumed_run_is_bit_equal(tmp_path, step, kind):
    settings = kind | {"objective": {"type": "law_matching", "maskings": 2}}
    settings |= {"gradient_accumulation_steps": 2}

    def ended(trainer):
        parts = {"student": trainer.model, "auxiliary": trainer.auxiliaries.models["auxiliary"]}
        parts["teacher"] = trainer.teacher_model
        named = {f"{part}.{n}": w for part, m in parts.items() for n, w in weights(m).items()}
        return (
            named
            | trainer.average.mean
            | {f"memory.{k}": v for k, v in trainer.memory.tensors.items()}
        )

    whole = run(tmp_path / "whole", **settings)
    whole.train()
    run(tmp_path, **settings, callbacks=[stop_after(step)]).train()
    torch.manual_seed(step)
    resumed = run(tmp_path, **settings)
    resumed.train(resume_from_checkpoint=True)
    assert differing(ended(resumed), ended(whole)) == []


def test_labels_and_padding_reach_all_three_networks(tmp_path):
    teacher = tiny(num_classes=10, token_shape=None, position_embedding="rotary", pad_token_id=0)
    data = rows(32, labels=True)
    for i, row in enumerate(data):
        row["input_ids"] = row["input_ids"][: 40 + i % 20]
    trainer = run(tmp_path, teacher, data)
    given = []
    networks = trainer.model, trainer.auxiliaries.models["auxiliary"], teacher
    for number, model in enumerate(networks):
        model.register_forward_pre_hook(
            lambda _, inputs, kwargs, number=number: given.append((number, kwargs)),
            with_kwargs=True,
        )
    trainer.train()
    assert {number for number, _ in given} == {0, 1, 2}
    assert all({"class_labels", "attention_mask"} <= kwargs.keys() for _, kwargs in given)
