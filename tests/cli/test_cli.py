"""The command line: one sentence and exit code 2 for a wrong argument, and nothing half-written."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hf_ddistill.cli import main
from hf_ddistill.cli.commands import COMMANDS
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.models import DDiTConfig, DDiTForDiscreteDiffusion, as_denoiser
from hf_ddistill.objectives import Objective
from hf_ddistill.processes import Absorbing, Process


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The folder of a tiny model of digits."""
    torch.manual_seed(0)
    config = DDiTConfig(
        vocab_size=3,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        token_shape=[8, 8],
        position_embedding="learned",
        mask_token_id=2,
    )
    network = DDiTForDiscreteDiffusion(config)
    as_denoiser(network, Diffusion(Absorbing(3)))
    folder = tmp_path_factory.mktemp("model")
    network.save_pretrained(folder)
    return str(folder)


def refused(capsys, *argv):
    """What a refused command says: exit code 2 and one sentence, the last on stderr."""
    try:
        code = main(list(map(str, argv)))
    except SystemExit as stop:
        code = stop.code
    error = capsys.readouterr().err.strip()
    assert code == 2, error
    said = error.splitlines()[-1]
    assert said.startswith("hf-ddistill") and "Traceback" not in error
    return said


def test_list_shows_every_member_of_every_family_with_a_source(tmp_path, capsys):
    assert main(["list", "--json", str(tmp_path / "list.json")]) == 0
    shown = capsys.readouterr().out
    rows = json.loads((tmp_path / "list.json").read_text())["rows"]
    for family, registry in (("processes", Process.registry), ("objectives", Objective.registry)):
        assert {row["id"] for row in rows if row["family"] == family} == set(registry)
    assert all(row["citation"] and row["summary"] and row["id"] in shown for row in rows)
    assert [row["id"] for row in rows if row["summary"][-1] != "."] == []


def test_a_step_count_of_zero_is_refused(model, capsys):
    assert "at least 1, got 0" in refused(capsys, "sample", model, "--steps", 0)


def test_an_unknown_objective_lists_those_that_exist(model, tmp_path, capsys):
    options = ["--teacher", model, "--data", "digits", "--output", tmp_path / "out"]
    said = refused(capsys, "distill", *options, "--objective", "edc")
    assert all(name in said for name in Objective.registry) and "did you mean 'ecd'" in said
    assert not (tmp_path / "out").exists()


def test_an_unknown_process_lists_those_that_exist(tmp_path, capsys):
    options = ["--data", "digits", "--output", tmp_path / "out"]
    said = refused(capsys, "teacher", *options, "--process", "absorbin")
    assert all(name in said for name in Process.registry)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["quickstart", "teacher", "distill"])
def test_an_output_that_is_a_file_is_refused_and_kept(command, model, tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("precious")
    more = {"quickstart": [], "teacher": ["--data", "digits"]}
    more["distill"] = ["--data", "digits", "--teacher", model]
    said = refused(capsys, command, "--output", file, *more[command], *steps(command))
    assert "is a file" in said
    assert file.read_text() == "precious"


def steps(command):
    return [] if command == "quickstart" else ["--steps", "1"]


def test_a_configuration_with_an_unknown_key_is_refused(model, tmp_path, capsys):
    file = tmp_path / "run.yaml"
    file.write_text("stepps: 3\n")
    said = refused(capsys, "sample", model, "--config", file)
    assert "stepps" in said and "steps" in said


def test_a_configuration_sets_options_and_flags_override_it(model, tmp_path, capsys):
    file = tmp_path / "run.yaml"
    file.write_text(f"model: {model}\nsteps: 2\ncount: 3\ntemperature: 1e-4\n")
    out = tmp_path / "out.json"
    assert main(["sample", "--config", str(file), "--count", "2", "--json", str(out)]) == 0
    written = json.loads(out.read_text())
    assert written["nfe"] == 2 and len(written["rows"]) == 2


def test_a_folder_without_a_model_is_refused(tmp_path, capsys):
    assert "holds no model" in refused(capsys, "sample", tmp_path)
    assert "No model" in refused(capsys, "diagnose", "nowhere/nothing")


def test_what_is_no_json_and_no_folder_is_one_sentence(model, tmp_path, capsys):
    options = ["--teacher", model, "--data", "digits", "--output", tmp_path / "out"]
    assert "is no JSON" in refused(capsys, "distill", *options, "--objective", "{ecd")
    assert "there is no folder" in refused(capsys, "evaluate", tmp_path / "nowhere")
    out = ["--output", tmp_path / "out", "--data", "nobody/nothing"]
    assert "nobody/nothing" in refused(capsys, "teacher", *out)
    assert not (tmp_path / "out").exists()


def test_an_empty_data_set_is_refused(model, tmp_path, capsys):
    (tmp_path / "empty.txt").touch()
    options = ["--data", tmp_path / "empty.txt", "--output", tmp_path / "out"]
    assert "is empty" in refused(capsys, "distill", "--teacher", model, *options)
    assert not (tmp_path / "out").exists()


def test_a_teacher_is_trained_distilled_sampled_and_evaluated(tmp_path, capsys):
    teacher, student = str(tmp_path / "teacher"), str(tmp_path / "student")
    small = ["--hidden-size", "16", "--layers", "1", "--heads", "2", "--cpu", "--steps", "2"]
    assert main(["teacher", "--data", "digits", "--output", teacher, *small]) == 0
    options = ["--teacher", teacher, "--output", student, "--steps", "2", "--cpu"]
    objective = '{"type": "ecd", "times": "grid_times"}'
    assert main(["distill", "--data", "digits", "--objective", objective, *options]) == 0
    assert main(["sample", student, "--count", "2", "--image", str(tmp_path / "s.png")]) == 0
    rows = tmp_path / "rows.json"
    judged = ["--judge", "digits", "--samples", "40", "--nfe", "1", "2", "--json", str(rows)]
    assert main(["evaluate", student, *judged]) == 0
    keys = {"model", "nfe", "fd", "confidence", "class_entropy", "novelty"}
    found = json.loads(rows.read_text())["rows"]
    assert [row["nfe"] for row in found] == [0, 1, 2] and all(keys <= set(row) for row in found)
    assert main(["card", student]) == 0
    assert "2512.12889" in capsys.readouterr().out


def test_a_student_with_noise_is_matched_in_law_and_samples_afresh(model, tmp_path, capsys):
    student = str(tmp_path / "student")
    options = ["--teacher", str(model), "--output", student, "--data", "digits", "--cpu"]
    options += ["--objective", "law_matching", "--noise-dim", "2", "--steps", "2"]
    assert main(["distill", *options, "--auxiliary-learning-rate", "1e-3"]) == 0
    assert main(["sample", student, "--count", "2", "--sampler", "jump"]) == 0
    assert json.loads((tmp_path / "student" / "config.json").read_text())["noise_dim"] == 2


@pytest.mark.parametrize("adapters", [[], ["--lora-rank", "2"]], ids=["whole", "adapters"])
def test_a_student_of_several_teachers_names_them(model, tmp_path, adapters, capsys):
    student = tmp_path / "student"
    other = shutil.copytree(model, tmp_path / "other")
    options = ["--output", str(student), "--data", "digits", "--cpu", "--steps", "1", *adapters]
    assert main(["distill", "--teacher", str(model), str(other), *options]) == 0
    assert f"`{Path(model).name} + other`" in (student / "README.md").read_text()
    assert (student / "adapter_config.json").exists() == bool(adapters)


def test_a_student_of_another_process_is_refused(model, tmp_path, capsys):
    other = str(tmp_path / "other")
    small = ["--hidden-size", "16", "--layers", "1", "--heads", "2", "--cpu", "--steps", "1"]
    options = ["--process", "uniform", "--vocab-size", "3", "--data", "digits"]
    assert main(["teacher", "--output", other, *options, *small]) == 0
    capsys.readouterr()
    pair = ["--teacher", model, "--student", other, "--data", "digits", "--steps", "1", "--cpu"]
    said = refused(capsys, "distill", *pair, "--output", tmp_path / "out")
    assert "uniform" in said and "absorbing" in said


def test_every_command_has_help_and_the_program_runs_as_installed():
    assert set(COMMANDS) >= {"quickstart", "teacher", "distill", "sample", "evaluate", "list"}
    code = "import sys; from hf_ddistill.cli import main; sys.exit(main(sys.argv[1:]))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0 and all(name in run.stdout for name in COMMANDS)
