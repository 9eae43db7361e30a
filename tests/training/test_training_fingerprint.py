"""A checkpoint of another run is refused, and the sentence says what differs."""

from __future__ import annotations

import random
import shutil

import pytest
import torch
from datasets import IterableDataset
from peft import LoraConfig
from stopped_runs import end_at
from training_runs import distilling, matching, rows, teaching, tiny

from hf_ddistill.denoisers import Sharpened
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.models import as_denoiser
from hf_ddistill.processes import Absorbing
from hf_ddistill.schedules import Cosine
from hf_ddistill.training.fingerprint import Fingerprint

SAVED = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1}


def student(folder, teacher="tiny", data=None, **settings):
    return distilling(folder, teacher, rows(16) if data is None else data, **SAVED | settings)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """The folder of a student's run that ended after its first step."""
    folder = tmp_path_factory.mktemp("student")
    student(folder, callbacks=[end_at(1)]).train()
    return folder


def other_rows():
    return [*rows(16)[:-1], {"input_ids": [1] * 64}]


def other_teacher():
    teacher = tiny()
    with torch.no_grad():
        teacher.lm_head.weight[0, 0] += 1
    return teacher


OTHERS = {
    "learning rate": ({"learning_rate": 0.5}, "learning_rate was 0.0003 and is 0.5"),
    "seed": ({"seed": 7}, "seed was 42 and is 7"),
    "batch": ({"per_device_train_batch_size": 4}, "per_device_train_batch_size was 8 and is 4"),
    "accumulation": ({"gradient_accumulation_steps": 2}, "gradient_accumulation_steps was 1 and"),
    "no mean": ({"ema_decay": 0.0}, "ema_decay was 0.999 and is 0.0"),
    "objective": ({"objective": {"type": "ecd", "top_k": 2}}, "objective.top_k was null"),
    "auxiliary": ({"objective": matching()}, "objective.type was"),
    "times": ({"objective": {"type": "ecd", "times": "grid_times"}}, "objective.times.type was"),
    "rounds": ({"rounds": 2}, "rounds was 1 and is 2"),
    "steps": ({"student_steps": 8}, "student_steps was 4 and is 8"),
    "optimizer": ({"optim": "adafactor"}, 'optim was "adamw_torch'),
    "schedule": ({"lr_scheduler_type": "cosine"}, 'lr_scheduler_type was "linear" and is "cosine"'),
    "noise": ({"noise_dim": 4}, "noise_dim was 0 and is 4"),
    "rows": ({"data": other_rows}, "the rows to train on are not the same"),
    "count": ({"data": lambda: rows(8)}, "training_rows was 16 and is 8"),
    "size": ({"teacher": lambda: tiny(hidden_size=32)}, "parameters was"),
    "teacher": ({"teacher": other_teacher}, "the weights of the teacher are not the same"),
    "sharpened": ({"teacher": lambda: Sharpened(as_denoiser(tiny()), 0.5)}, "temperature=0.5"),
    "shorter": ({"max_steps": 3, "warmup_steps": 1, "ema_decay": 0.5}, "ema_decay was"),
}


@pytest.mark.parametrize(("settings", "told"), OTHERS.values(), ids=OTHERS)
def test_checkpoint_of_another_run_is_refused_with_what_differs(tmp_path, stopped, settings, told):
    made = {k: v() if k in ("data", "teacher") else v for k, v in settings.items()}
    trainer = student(tmp_path, **made)
    with pytest.raises(ValueError, match="checkpoint-1 is of another run: ") as error:
        trainer.train(resume_from_checkpoint=str(stopped / "checkpoint-1"))
    assert told in str(error.value) and "another output folder" in str(error.value)
    assert trainer.state.global_step == 0
    assert not (tmp_path / "run.json").exists()


def test_what_does_not_decide_the_weights_may_change(tmp_path, stopped):
    free = {"logging_steps": 1, "save_steps": 7, "save_total_limit": 1, "max_steps": 5}
    free |= {"warmup_steps": 1, "num_eval_samples": 2, "dataloader_num_workers": 1}
    trainer = student(tmp_path, run_name="other", **free)
    assert trainer.last_checkpoint(stopped) == str(stopped / "checkpoint-1")
    # Rounds are parts of the whole, which must stay.
    rounds = student(tmp_path, rounds=2).fingerprint()
    assert rounds.differences(student(tmp_path, rounds=2, max_steps=6).fingerprint())


def test_longer_run_goes_on_and_a_shorter_one_is_refused(tmp_path, stopped):
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)
    longer = student(folder, max_steps=3, save_steps=2, logging_steps=2)
    longer.train(resume_from_checkpoint=True)
    assert longer.state.global_step == 3
    # The intervals are those that are asked for now; the end is saved in any case.
    assert [r["step"] for r in longer.state.log_history if "loss" in r] == [2]
    assert not (folder / "checkpoint-4").exists() and (folder / "checkpoint-3").exists()
    again = student(
        folder,
        max_steps=6,
        save_steps=5,
        eval_steps=4,
        eval_strategy="steps",
        eval_dataset=rows(4, held_out=True),
    )
    again.train(resume_from_checkpoint=True)
    steps = {int(path.name.removeprefix("checkpoint-")) for path in folder.glob("checkpoint-*")}
    assert steps == {1, 2, 3, 5, 6}
    assert [r["step"] for r in again.state.log_history if "eval_loss" in r] == [4, 6]
    with pytest.raises(ValueError, match="it stands at step 3, and max_steps is 2"):
        student(folder).train(resume_from_checkpoint=str(folder / "checkpoint-3"))


def test_used_folder_goes_on_from_this_run_and_leaves_the_other_alone(tmp_path, stopped):
    shutil.copytree(stopped / "checkpoint-1", tmp_path / "checkpoint-9")
    teaching(tmp_path, tiny(), rows(16), callbacks=[end_at(1)], **SAVED).train()
    again = teaching(tmp_path, tiny(), rows(16), **SAVED)
    with pytest.warns(UserWarning, match="checkpoint-9 is of another run: .*checkpoint-1"):
        assert again.last_checkpoint() == str(tmp_path / "checkpoint-1")


def test_process_schedule_and_adapters_are_of_the_run(tmp_path):
    def fingerprint(rank=2, alpha=4, schedule=None, base=0):
        adapters = LoraConfig(r=rank, lora_alpha=alpha, target_modules=["qkv", "up"])
        diffusion = Diffusion(Absorbing(3), schedule) if schedule else None
        made = {"model": tiny(base), "peft_config": adapters, "diffusion": diffusion}
        return distilling(tmp_path, None, rows(4), **made).fingerprint()

    one = fingerprint()
    assert one.differences(fingerprint()) == []
    assert "adapters.default.lora_alpha was 8 and is 4" in one.differences(fingerprint(alpha=8))
    assert any("adapters.default.r was" in d for d in one.differences(fingerprint(rank=1)))
    assert one.differences(fingerprint(base=1)) == ["the frozen weights are not the same"]
    cosine = one.differences(fingerprint(schedule=Cosine()))
    assert any("diffusion.schedule.type was" in d for d in cosine)


def test_number_of_processes_is_of_the_run():
    one, two = (Fingerprint({"processes": count, "rounds": 1}, {}) for count in (1, 2))
    assert one.differences(two) == ["processes was 2 and is 1"]


def test_stream_is_known_by_its_first_rows_and_drawn_rows_are_not_compared(tmp_path):
    def run(generate):
        data = IterableDataset.from_generator(generate)
        return teaching(tmp_path, tiny(), data).fingerprint()

    def drawn():
        noise = random.Random()
        while True:
            yield {"input_ids": [noise.randrange(2) for _ in range(64)]}

    one = run(lambda: iter(rows(8)))
    assert one.differences(run(lambda: iter(rows(8)))) == []
    assert one.differences(run(lambda: iter(rows(4)))) == ["the rows to train on are not the same"]
    assert run(drawn).differences(run(drawn)) == []


def test_fingerprint_is_of_the_start_though_teacher_and_objective_change(tmp_path):
    trainer = student(tmp_path, rounds=2, max_steps=2)
    before = trainer.fingerprint()
    trainer.train()
    assert Fingerprint.read(tmp_path / "checkpoint-2") == before == trainer.fingerprint()
    assert Fingerprint.read(tmp_path) == before
    assert student(tmp_path / "again", rounds=2, max_steps=2).fingerprint() == before
