"""Where commands write: what the user had there is there afterwards, whatever happens."""

from __future__ import annotations

import errno
import json
import resource
import shutil
from pathlib import Path

import pytest
from folders import snapshot
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from training_runs import tiny

from hf_ddistill import DiscreteDiffusionPipeline
from hf_ddistill.cli import diagnose, evaluate, main, sample, teacher
from hf_ddistill.cli.resuming import command_that_goes_on
from hf_ddistill.models import BlockDiffusionLM

TEACHER = ["teacher", "--data", "digits", "--hidden-size", "16", "--layers", "1", "--heads", "2"]
TEACHER += ["--batch-size", "4", "--cpu", "--save-steps", "1"]


@pytest.fixture
def model(tmp_path, lm):  # noqa: F811
    """A copy of a causal language model with its tokenizer, as a user has it."""
    return shutil.copytree(lm, tmp_path / "user" / "lm")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run of the teacher's command, two steps long."""
    folder = tmp_path_factory.mktemp("trained") / "out"
    assert main([*TEACHER, "--output", str(folder), "--steps", "2"]) == 0
    return folder


@pytest.fixture
def run(trained, tmp_path):
    """A copy of it that may be written to."""
    return shutil.copytree(trained, tmp_path / "run")


def refused(capsys, folder, argv, *words):
    """A command that is refused, and leaves everything below a folder as it was."""
    before = snapshot(folder)
    assert main(list(map(str, argv))) == 2
    said = capsys.readouterr().err
    assert all(word in said for word in words), said
    assert snapshot(folder) == before


@pytest.mark.parametrize("flags", [[], ["--overwrite"]], ids=["plain", "overwrite"])
def test_a_folder_with_a_user_s_files_survives_a_conversion(model, tmp_path, flags, capsys):
    home = tmp_path / "home"
    (home / "photos").mkdir(parents=True)
    (home / "photos" / "cat.jpg").write_text("cat")
    (home / "thesis.tex").write_text("thesis")
    argv = ["convert", model, "--output", home, *flags]
    refused(capsys, tmp_path, argv, "photos, thesis.tex")


@pytest.mark.parametrize("flags", [[], ["--overwrite"]], ids=["plain", "overwrite"])
@pytest.mark.parametrize("output", [".", "lm", "../user", "lm/..", "link"])
def test_neither_the_source_nor_a_folder_around_it_is_overwritten(
    model, output, flags, monkeypatch, capsys
):
    (model.parent / "link").symlink_to(model)
    monkeypatch.chdir(model.parent)
    refused(capsys, model.parent, ["convert", "lm", "--output", output, *flags], "hf-ddistill:")
    monkeypatch.chdir(model)
    refused(capsys, model.parent, ["convert", ".", "--output", ".", *flags], "hf-ddistill:")


def test_a_quickstart_keeps_the_user_s_folders_of_the_same_names(tmp_path, monkeypatch, capsys):
    for name in ("teacher/thesis.txt", "students/marks.csv", "metrics.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    monkeypatch.chdir(tmp_path)
    argv = ["quickstart", "--output", ".", "--fast"]
    refused(capsys, tmp_path, argv, "metrics.json, students, teacher")
    refused(capsys, tmp_path, [*argv, "--overwrite"], "current folder")


def test_a_converted_folder_has_a_card_and_can_be_converted_again(model, tmp_path, capsys):
    out = tmp_path / "student"
    assert main(["convert", str(model), "--output", str(out)]) == 0
    card = ModelCard.load(out / "README.md")
    assert card.data.tags == ["discrete-diffusion", "block-diffusion", "converted"]
    assert 'from_pretrained("student")' in card.text and "`lm`" in card.text
    assert "blocks of 4 tokens" in card.text and "not been trained" in card.text
    assert "--teacher lm --student student" in card.text and "<|mask|>" in card.text
    assert str(tmp_path) not in card.content and card.data.base_model is None
    (out / "notes.txt").write_text("mine")
    argv = ["convert", model, "--output", out, "--block-size", 8]
    refused(capsys, tmp_path, argv, "is not empty")
    assert main([*map(str, argv), "--overwrite"]) == 0
    assert BlockDiffusionLM.from_pretrained(out).config.block_size == 8
    assert (out / "notes.txt").read_text() == "mine"
    (out / "README.md").write_text("my own words")
    refused(capsys, tmp_path, [*argv, "--overwrite"], "README.md", "was changed since")


@pytest.mark.parametrize("there", [False, True], ids=["new", "old"])
def test_a_full_disk_leaves_no_half_of_a_model(model, tmp_path, there, capsys):
    out = tmp_path / "sub" / "student"
    argv = ["convert", str(model), "--output", str(out), "--overwrite"]
    if there:
        assert main(argv) == 0
    before, limits = snapshot(tmp_path), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        code = main(argv)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 2 and "too large" in capsys.readouterr().err
    assert snapshot(tmp_path) == before


def test_a_file_of_figures_is_refused_before_the_work(tmp_path, monkeypatch, capsys):
    tiny().save_pretrained(tmp_path / "model")
    (tmp_path / "rows.json").write_text("mine")
    (tmp_path / "link.json").symlink_to(tmp_path / "rows.json")
    for module in (sample, evaluate, diagnose):
        monkeypatch.setattr(module, "run", None)  # it is not reached
        command = module.__name__.rpartition(".")[2]
        for name in ("rows.json", "link.json"):
            argv = [command, tmp_path / "model", "--json", tmp_path / name]
            refused(capsys, tmp_path, argv, f"--json names {tmp_path / name}")
            refused(capsys, tmp_path, [*argv, "--overwrite"], "it is kept")


def test_figures_of_ours_are_written_again_if_asked(tmp_path, capsys):
    argv = ["list", "processes", "--json", str(tmp_path / "rows.json")]
    assert main(argv) == 0
    assert main(argv) == 2
    assert main([*argv, "--overwrite"]) == 0
    assert json.loads((tmp_path / "rows.json").read_text())["rows"]


def test_a_finished_run_is_kept_unless_it_may_be_overwritten(run, capsys):
    argv = [*TEACHER, "--output", run, "--steps", 2, "--seed", 3]
    (run / "checkpoint-2" / "notes.txt").write_text("mine")
    refused(capsys, run.parent, argv, "is not empty", "checkpoint-1")
    refused(capsys, run.parent, [*argv, "--overwrite", "--resume"], "give one")
    before = load_file(run / "model.safetensors")
    assert main([*map(str, argv), "--overwrite"]) == 0
    after = load_file(run / "model.safetensors")
    assert any(not before[name].equal(after[name]) for name in before)
    assert (run / "checkpoint-2" / "notes.txt").read_text() == "mine"
    again = load_file(run / "checkpoint-2" / "model.safetensors")
    assert again.keys() == after.keys() and not (run / "replaced").exists()
    (run / "checkpoint-7").mkdir()
    (run / "checkpoint-7" / "trainer_state.json").write_text("{}")
    refused(capsys, run.parent, [*argv, "--overwrite"], "checkpoint-7/trainer_state.json")


@pytest.mark.parametrize("step", [0, 1], ids=["before a checkpoint", "after one"])
def test_an_overwriting_run_that_fails_leaves_the_earlier_one(run, step, monkeypatch, capsys):
    before = snapshot(run)
    (run / "notes.txt").write_text("mine")

    def fails(trainer, *args, **kwargs):
        if step:
            trainer.train()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(teacher, "train", fails)
    argv = [*TEACHER, "--output", str(run), "--steps", "1", "--seed", "3", "--overwrite"]
    assert main(argv) == 2
    after = snapshot(run)
    assert after.pop("notes.txt")
    work = [path for path in before if path.startswith("checkpoint-") or path == "run.json"]
    kept = {path: what for path, what in before.items() if path not in work}
    if step:
        assert {f"replaced/{path}": after[f"replaced/{path}"] for path in work if before[path]} == {
            f"replaced/{path}": before[path] for path in work if before[path]
        }
    else:
        kept |= {path: before[path] for path in work}
    kept.pop(".hf_ddistill.json")
    assert {path: after.get(path) for path in kept} == kept


def test_the_command_that_goes_on_does_not_overwrite_what_it_goes_on_with(monkeypatch):
    given = ["hf-ddistill", "teacher", "--output", "x", "--overwrite"]
    monkeypatch.setattr("sys.argv", given)
    goes_on = command_that_goes_on("--resume")
    assert goes_on == "hf-ddistill teacher --output x --resume"
    assert command_that_goes_on(None) == " ".join(given)


@pytest.mark.filterwarnings("ignore:Passed over")
def test_a_run_that_goes_on_deletes_nothing_of_the_user_s(run, capsys):
    """A folder that looks like half a checkpoint may be anything."""
    mine = {"checkpoint-9/thesis.txt": "a", "checkpoint-3/model.safetensors": "b"}
    mine |= {"checkpoint-5-best/x": "c", "notes.txt": "d", "checkpoint-4/.env": "e"}
    for path, text in mine.items():
        (run / path).parent.mkdir(exist_ok=True)
        (run / path).write_text(text)
    # A run of more steps is the same run, longer.
    argv = [*TEACHER, "--output", str(run), "--steps", "4", "--resume"]
    code = main(argv)
    said = capsys.readouterr()
    assert code == 0, said.err
    left = {path: text for path, text in _texts(run).items() if text in mine.values()}
    moved = {"checkpoint-3/model.safetensors": "aside-checkpoint-3/model.safetensors"}
    assert left == {moved.get(path, path): text for path, text in mine.items()}
    assert "it is aside-checkpoint-3 now" in said.out


def _texts(folder):
    found = {path.relative_to(folder).as_posix(): path for path in Path(folder).rglob("*")}
    return {name: path.read_text() for name, path in found.items() if _small(path)}


def _small(path):
    return path.is_file() and path.stat().st_size < 2


@pytest.mark.filterwarnings("ignore:Passed over")
def test_a_checkpoint_that_a_kill_cut_short_is_written_again_in_its_place(run, capsys):
    record = json.loads((run / ".hf_ddistill.json").read_text())
    half = run / "checkpoint-3"
    half.mkdir()
    (half / "model.safetensors").write_text("half")
    record["begun"] = ["checkpoint-3"]  # as it was entered before the first byte was written
    (run / ".hf_ddistill.json").write_text(json.dumps(record))
    assert main([*TEACHER, "--output", str(run), "--steps", "3", "--resume"]) == 0
    assert not (run / "aside-checkpoint-3").exists()
    assert (half / "trainer_state.json").exists() and load_file(half / "model.safetensors")
    record = json.loads((run / ".hf_ddistill.json").read_text())
    assert not record["begun"] and "checkpoint-3/model.safetensors" in record["files"]


def test_the_record_lists_all_that_a_run_wrote_and_nothing_else(run):
    files = {path for path in visible_names(run) if path != ".hf_ddistill.json"}
    assert set(json.loads((run / ".hf_ddistill.json").read_text())["files"]) == files


def visible_names(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_a_pipeline_is_saved_beside_the_user_s_folders_of_its_parts_names(tmp_path):
    mine = {"model/notes.txt": "a", "tokenizer/notes.txt": "b", "notes.txt": "c"}
    for path, text in mine.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    before = snapshot(tmp_path)
    pipe = DiscreteDiffusionPipeline.from_model(tiny())
    pipe.save_pretrained(tmp_path)
    after = snapshot(tmp_path)
    assert {path: after.get(path) for path in before} == before
    new = {"config.json", "model.safetensors", "model_index.json", "scheduler"}
    assert {path.partition("/")[0] for path in after.keys() - before.keys()} == new


def test_an_empty_folder_is_left_where_the_trainer_refuses(lm, tmp_path, capsys):  # noqa: F811
    blocks, data = tmp_path / "blocks", tmp_path / "rows.jsonl"
    assert main(["convert", str(lm), str(blocks)]) == 0
    data.write_text('{"text": "0 1 2"}\n' * 4)
    argv = ["distill", "--teacher", blocks, "--data", data, "--objective", "outcome_reward"]
    argv += ["--objective.rollouts", '{"tokens": 8}', "--max-length", "8", "--cpu"]
    argv += ["--output", tmp_path / "new" / "out", "--steps", "1"]
    assert main(list(map(str, argv))) == 2
    assert "needs what each rollout earns" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
