"""A damaged checkpoint does not end a run that has a whole one; nothing of others is removed."""

from __future__ import annotations

import json
import resource
import shutil
from pathlib import Path

import pytest
import torch
from slow_cases import mostly_slow
from stopped_runs import end_at
from training_runs import At, differing, distilling, rows, tiny, weights
from transformers import TrainerState

from hf_ddistill.training import checkpoints
from hf_ddistill.training.checkpoints import checkpoints_in, damage

OBJECTIVE = {"type": "ecd", "times": {"type": "adaptive_times"}}


def run(folder, *callbacks, **settings):
    """Four steps, with a checkpoint after each of them."""
    defaults = {"max_steps": 4, "save_strategy": "steps", "save_steps": 1}
    return distilling(
        folder,
        tiny(),
        rows(8),
        objective=OBJECTIVE,
        callbacks=list(callbacks),
        **defaults | settings,
    )


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """The folder of a run that ended after its second step."""
    folder = tmp_path_factory.mktemp("stopped")
    run(folder, end_at(2)).train()
    return folder


@pytest.fixture(scope="module")
def again(tmp_path_factory):
    """The same run once more, with its output elsewhere."""
    return run(tmp_path_factory.mktemp("again"))


def contents(folder):
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def cut(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def empty(file):
    file.write_bytes(b"")


def flip(file):
    """Another byte near the end: the size and the head are as they were."""
    data = bytearray(file.read_bytes())
    data[-3] ^= 255
    file.write_bytes(bytes(data))


def fill(file):
    file.write_bytes(b"\x00" * file.stat().st_size)


def unlink(file):
    file.unlink()


DAMAGES = [
    ("trainer_state.json", empty),
    ("trainer_state.json", cut),
    ("trainer_state.json", unlink),
    ("model.safetensors", cut),
    ("model.safetensors", flip),
    ("model.safetensors", fill),
    ("config.json", unlink),
    ("optimizer.pt", flip),
    ("optimizer.pt", empty),
    ("optimizer.pt", unlink),
    ("scheduler.pt", fill),
    ("rng_state.pth", cut),
    ("run_state.safetensors", unlink),
    ("run_state.safetensors", flip),
    ("memory_0.safetensors", unlink),
    ("run.json", empty),
    ("run.json", unlink),
    ("whole.json", unlink),
    ("whole.json", empty),
    ("whole.json", fill),
]


@pytest.mark.parametrize(("name", "harm"), DAMAGES, ids=[f"{h.__name__} {n}" for n, h in DAMAGES])
def test_damaged_checkpoint_is_passed_over_by_name_and_left_where_it_is(
    tmp_path, stopped, again, name, harm
):
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)
    harm(folder / "checkpoint-2" / name)
    before = contents(folder)
    with pytest.warns(UserWarning, match=rf"Passed over .*checkpoint-2 \({name} .*checkpoint-1\."):
        assert again.last_checkpoint(folder) == str(folder / "checkpoint-1")
    again._found_whole = None
    assert contents(folder) == before


def test_run_goes_on_from_the_whole_checkpoint_and_mends_the_damaged_one(tmp_path):
    whole = run(tmp_path / "whole")
    whole.train()
    folder = tmp_path / "stopped"
    run(folder, end_at(2)).train()
    empty(folder / "checkpoint-2" / "trainer_state.json")
    (folder / "checkpoint-2" / "notes.txt").write_text("mine")
    resumed = run(folder)
    with pytest.warns(UserWarning, match="trainer_state.json is not what was written"):
        resumed.train(resume_from_checkpoint=True)
    assert not differing(weights(resumed.model), weights(whole.model))
    assert not differing(resumed.average.mean, whole.average.mean)
    assert damage(folder / "checkpoint-2") is None
    assert (folder / "checkpoint-2" / "notes.txt").read_text() == "mine"


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    trainer = run(tmp_path_factory.mktemp("whole"))
    trainer.train()
    return weights(trainer.model) | {f"mean.{n}": v for n, v in trainer.average.mean.items()}


# The arguments, the optimizer, the schedule and the generators; the state; the marker.
@pytest.mark.parametrize(
    "at", mostly_slow([0, 1, 2, 3, "save_to_json", "finish"], lambda at: at in (1, "finish"))
)
def test_run_that_was_killed_while_it_wrote_a_checkpoint_is_bit_equal(
    tmp_path, monkeypatch, uninterrupted, at
):
    calls = []

    def die(plain, *args):
        if trainer.state.global_step == 3:
            calls.append(plain)
            if isinstance(at, str) or len(calls) > at:
                if not isinstance(at, str):
                    Path(args[1]).write_bytes(b"half of i")
                raise KeyboardInterrupt
        return plain(*args)

    owners = {"save_to_json": TrainerState, "finish": checkpoints}
    owner, name = (owners[at], at) if at in owners else (torch, "save")
    plain = getattr(owner, name)
    trainer = run(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, lambda *args: die(plain, *args))
        with pytest.raises(KeyboardInterrupt):
            trainer.train()
    assert (tmp_path / "checkpoint-3").exists()
    resumed = run(tmp_path)
    with pytest.warns(UserWarning, match=r"checkpoint-3 \(whole.json .* from checkpoint-2\."):
        resumed.train(resume_from_checkpoint=True)
    ended = weights(resumed.model) | {f"mean.{n}": v for n, v in resumed.average.mean.items()}
    assert not differing(ended, uninterrupted)
    assert damage(tmp_path / "checkpoint-3") is None


def test_error_without_a_whole_checkpoint_names_the_files_and_the_cure(tmp_path, stopped, again):
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)
    empty(folder / "checkpoint-1" / "optimizer.pt")
    unlink(folder / "checkpoint-2" / "whole.json")
    before = contents(folder)
    told = (
        r"No checkpoint is whole: .*checkpoint-2 \(whole.json .*checkpoint-1 \(optimizer.pt .*start"
    )
    with pytest.raises(ValueError, match=told):
        again.last_checkpoint(folder, must_exist=True)
    with pytest.raises(ValueError, match="optimizer.pt"):
        again.train(resume_from_checkpoint=str(folder / "checkpoint-1"))
    with pytest.warns(UserWarning, match="starting from the beginning"):
        assert again.last_checkpoint(folder) is None
    assert contents(folder) == before


def test_folders_without_a_checkpoint_have_none(tmp_path, again):
    assert again.last_checkpoint(tmp_path / "nowhere") is None
    (tmp_path / "checkpoint-best").mkdir()
    (tmp_path / "checkpoint-7").write_text("a file")
    assert again.last_checkpoint(tmp_path) is None
    with pytest.raises(ValueError, match="no checkpoint"):
        again.last_checkpoint(tmp_path, must_exist=True)


def test_limit_removes_old_checkpoints_of_this_run_and_nothing_else(tmp_path):
    other = run(tmp_path, end_at(1), learning_rate=0.5)
    other.train()
    (tmp_path / "checkpoint-1").rename(tmp_path / "checkpoint-900")
    for name in ("checkpoint-best", "checkpoint-3x", "checkpoint-800"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_text("mine")
    mine = contents(tmp_path)
    mine.pop("run.json")

    def note(state, control):
        if state.global_step == 2:
            (tmp_path / "checkpoint-1" / "notes.txt").write_text("mine")

    trainer = run(tmp_path, At("on_step_end", note), save_total_limit=1)
    trainer.train()
    assert trainer.args.save_total_limit == 1
    after = contents(tmp_path)
    assert mine.items() <= after.items()
    assert after["checkpoint-1/notes.txt"] == b"mine"
    assert [f for f in after if f.startswith("checkpoint-1/")] == ["checkpoint-1/notes.txt"]
    assert not any(f.startswith(("checkpoint-2/", "checkpoint-3/")) for f in after)
    assert damage(tmp_path / "checkpoint-4") is None


def test_limit_keeps_the_last_two_and_the_best(tmp_path):
    figures = iter([3.0, 1.0, 2.0, 4.0])
    trainer = run(
        tmp_path,
        save_total_limit=2,
        eval_dataset=rows(4, held_out=True),
        eval_strategy="steps",
        eval_steps=1,
        num_eval_samples=1,
        sample_metrics=lambda samples: {"ink": next(figures)},
        metric_for_best_model="ink",
        greater_is_better=False,
        load_best_model_at_end=True,
    )
    trainer.train()
    assert [path.name for path in checkpoints_in(tmp_path)] == ["checkpoint-4", "checkpoint-2"]


def test_marker_that_names_files_elsewhere_is_no_marker(tmp_path):
    folder = tmp_path / "checkpoint-1"
    folder.mkdir()
    (tmp_path / "mine").write_text("mine")
    marker = {"files": {"../mine": [4, 0]}, "resumable": True}
    (folder / "whole.json").write_text(json.dumps(marker))
    assert damage(folder) == "whole.json cannot be read"


def test_checkpoint_without_the_optimizer_is_not_gone_on_from(tmp_path):
    run(tmp_path, end_at(1), save_only_model=True).train()
    with pytest.raises(ValueError, match="save_only_model"):
        run(tmp_path).train(resume_from_checkpoint=True)


def test_finished_run_keeps_its_card_and_weights_when_resumed(tmp_path):
    first = run(tmp_path, max_steps=2)
    first.train()
    first.save_model()
    card, saved = ((tmp_path / n).read_bytes() for n in ("README.md", "model.safetensors"))
    assert b"| optimizer steps | 2 |" in card or b"optimizer steps" in card
    again = run(tmp_path, max_steps=2)
    output = again.train(resume_from_checkpoint=True)
    assert output.global_step == again.state.global_step == 2
    again.save_model()
    assert (tmp_path / "README.md").read_bytes() == card
    assert (tmp_path / "model.safetensors").read_bytes() == saved


@pytest.mark.parametrize(
    "share", [0.5, pytest.param(1.5, marks=pytest.mark.slow)], ids=["weights", "optimizer"]
)
def test_a_full_disk_in_a_checkpoint_is_told_and_the_one_before_stays(tmp_path, share):
    first = run(tmp_path, end_at(1))
    first.train()
    size = (tmp_path / "checkpoint-1" / "model.safetensors").stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(share * size), hard))
    try:
        with pytest.raises(OSError, match="checkpoint-2 could not be written"):
            run(tmp_path).train(resume_from_checkpoint=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with pytest.warns(UserWarning, match="Passed over .*checkpoint-2"):
        again = run(tmp_path)
        again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 4
