"""Ctrl-C and SIGTERM leave a checkpoint and the command that goes on; seeds decide all of a run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
from training_runs import At, differing, distilling, rows, tiny, weights

from hf_ddistill.cli import main
from hf_ddistill.cli.resuming import train
from hf_ddistill.training.checkpoints import checkpoints_in, damage

DIGITS = ["--data", "digits", "--cpu", "--batch-size", "8"]
TINY = [*DIGITS, "--hidden-size", "8", "--layers", "1", "--heads", "1"]


def run(folder, *callbacks):
    return distilling(folder, tiny(), rows(8), max_steps=4, callbacks=list(callbacks))


def send(number, step, count=1):
    """Sends a signal to this process in the middle of a step."""

    def kill(state, control):
        if state.global_step == step - 1:
            for _ in range(count):
                os.kill(os.getpid(), number)

    return At("on_step_begin", kill)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_leaves_a_checkpoint_and_the_command_that_goes_on(
    tmp_path, capsys, monkeypatch, number, code
):
    command = ["hf-ddistill", "distill", "--overwrite", "--output", "a folder"]
    monkeypatch.setattr(sys, "argv", command)
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    whole = run(tmp_path / "whole")
    whole.train()
    stopped = run(tmp_path / "run", send(number, 2))
    with pytest.raises(SystemExit) as error:
        train(stopped, None, option="--resume")
    assert error.value.code == code
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    told = capsys.readouterr().err
    assert "stopped at step 2 of 4, with a checkpoint" in told
    assert "hf-ddistill distill --output 'a folder' --resume" in told
    assert damage(tmp_path / "run" / "checkpoint-2") is None
    resumed = run(tmp_path / "run")
    train(resumed, tmp_path / "run", must_resume=True, option="--resume")
    assert not differing(weights(resumed.model), weights(whole.model))
    assert not differing(resumed.average.mean, whole.average.mean)


def test_second_interrupt_stops_at_once(tmp_path):
    stopped = run(tmp_path, send(signal.SIGINT, 2, count=2))
    with pytest.raises(KeyboardInterrupt):
        train(stopped, None)
    assert not checkpoints_in(tmp_path)


def test_command_that_resumes_by_itself_is_told_as_it_was(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["hf-ddistill", "quickstart", "--fast"])
    with pytest.raises(SystemExit):
        train(run(tmp_path, send(signal.SIGTERM, 1)), tmp_path)
    assert capsys.readouterr().err.rstrip().endswith("hf-ddistill quickstart --fast")


def test_half_a_first_checkpoint_does_not_stop_what_resumes_by_itself(tmp_path):
    (tmp_path / "checkpoint-1").mkdir()
    (tmp_path / "checkpoint-1" / "model.safetensors").write_bytes(b"half")
    trainer = run(tmp_path)
    with pytest.warns(UserWarning, match="whole.json is missing"):
        train(trainer, tmp_path)
    assert trainer.state.global_step == 4


@pytest.mark.slow
def test_same_seed_gives_the_same_teacher_and_adapters_and_checkpoints_are_kept(tmp_path):
    def teacher(name, seed):
        folder = tmp_path / name
        assert (
            main(["teacher", *TINY, "--steps", "3", "--seed", seed, "--output", str(folder)]) == 0
        )
        return folder

    one, two, other = teacher("one", "1"), teacher("two", "1"), teacher("other", "2")
    saved = [(folder / "model.safetensors").read_bytes() for folder in (one, two, other)]
    assert saved[0] == saved[1] != saved[2]
    assert [path.name for path in checkpoints_in(one)] == ["checkpoint-3", "checkpoint-2"]

    def adapters(name):
        folder = tmp_path / name
        made = ["distill", "--teacher", str(one), *DIGITS, "--steps", "1", "--lora-rank", "2"]
        assert main([*made, "--seed", "1", "--output", str(folder)]) == 0
        return (folder / "adapter_model.safetensors").read_bytes()

    assert adapters("three") == adapters("four")


@pytest.mark.slow
def test_commands_output_of_an_interrupted_process_goes_on(tmp_path):
    folder = tmp_path / "teacher"
    command = ["teacher", *TINY, "--output", str(folder)]
    process = subprocess.Popen(
        [sys.executable, "-m", "hf_ddistill.cli", *command, "--steps", "1000000"],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"PYTHONPATH": ":".join(entry for entry in sys.path if entry)},
    )
    started = time.monotonic()
    while not (folder / "run.json").exists() and time.monotonic() - started < 300:
        time.sleep(0.2)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    told = process.communicate(timeout=300)[1]
    assert process.returncode == 130, told
    assert told.rstrip().splitlines()[-1].endswith(" --steps 1000000 --resume")
    last = checkpoints_in(folder)[0]
    assert damage(last) is None
    done = int(last.name.removeprefix("checkpoint-"))
    # As many steps as it has taken: it is loaded and saved, and its card knows of them.
    assert main([*command, "--steps", str(done), "--resume"]) == 0
    assert str(done) in (folder / "README.md").read_text()
    assert main([*command, "--steps", str(done), "--resume", "--seed", "9"]) == 2
