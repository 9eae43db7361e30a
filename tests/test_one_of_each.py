"""One of each family in a package of its own, the code of docs/extending.md: a file each, and no
file of ours is touched for trainer, pipeline, laboratory and CLI to take it."""

from __future__ import annotations

import importlib
import json
import sys

import pytest
import torch
from block_models import block_model
from pages import ROOT, blocks
from training_runs import differing, distilling, rows, teaching, tiny, weights

from hf_ddistill import Diffusion, DiscreteDiffusionPipeline, as_denoiser
from hf_ddistill.cli.main import main
from hf_ddistill.denoisers import Denoiser
from hf_ddistill.parameterizations import Prediction
from hf_ddistill.processes import Absorbing
from hf_ddistill.samplers import Canvas, UnmaskingSampler

PAGE = ROOT / "docs" / "extending.md"
NAMES = ["coupling", "converter", "denoiser", "judge", "objective", "process", "schedule"]
NAMES += ["patient", "sampler", "step_rule", "unmasking", "weighting"]


@pytest.fixture(scope="module", autouse=True)
def mine(tmp_path_factory, registries_of_their_own):
    """The package of the page, imported."""
    folder = tmp_path_factory.mktemp("package")
    for block in blocks(PAGE, "python"):
        file = folder / block.mark
        file.parent.mkdir(exist_ok=True)
        file.write_text(block.text)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield importlib.import_module("mine")
    for name in [name for name in sys.modules if name.split(".")[0] == "mine"]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def teacher(mine, tmp_path_factory):
    """A network of the process and schedule of the page, trained for three steps and saved."""
    folder = tmp_path_factory.mktemp("teacher")
    network = tiny(vocab_size=2, mask_token_id=None)
    diffusion = Diffusion(mine.process.Blank(2), mine.schedule.Quadratic())
    trainer = teaching(folder, network, diffusion=diffusion)
    trainer.train()
    trainer.save_model()
    return str(folder)


def run(*words):
    assert main([str(word) for word in words]) == 0


def test_a_line_of_the_package_imports_no_file_of_its_own(mine):
    assert sorted(NAMES) == sorted(name for name in NAMES if hasattr(mine, name))


def test_a_family_does_not_find_its_new_member(mine, capsys):
    run("list")
    listed = capsys.readouterr().out.split()
    ids = {"blank", "quadratic", "hops", "restart", "halves", "two_views", "adversarial", "ink"}
    assert ids | {"plain", "late"} <= set(listed)


def test_trainer_and_pipeline_refuse_a_new_process_and_schedule(teacher):
    pipe = DiscreteDiffusionPipeline.from_pretrained(teacher)
    assert pipe.scheduler.diffusion.process.id == "blank"
    assert pipe.scheduler.diffusion.schedule.id == "quadratic"
    pipe.set_progress_bar_config(disable=True)
    samples = pipe(batch_size=3, num_inference_steps=3, output_type="tokens").sequences
    assert samples.shape == (3, 64)


def test_trainer_refuses_a_new_denoiser_as_teacher_or_a_new_coupling(mine, tmp_path):
    sharpened = mine.denoiser.Sharpened(as_denoiser(tiny()))
    assert isinstance(sharpened, Denoiser)
    objective = {"type": "ecd", "coupling": "two_views", "weighting": "late"}
    trainer = distilling(tmp_path, sharpened, objective=objective)
    before = weights(trainer.model)
    trainer.train()
    assert differing(weights(trainer.model), before)


def test_trainer_does_not_train_the_network_of_a_new_objective(mine, tmp_path):
    trainer = distilling(tmp_path, objective="adversarial", learning_rate=1e-2, logging_steps=1)
    judge = trainer.auxiliaries.models["discriminator"]
    assert isinstance(judge, mine.objective.Discriminator)
    student, discriminator = weights(trainer.model), weights(judge)
    trainer.train()
    assert differing(weights(trainer.model), student)
    assert differing(weights(judge), discriminator)
    assert "discriminator_loss" in str(trainer.state.log_history)


def test_pipeline_does_not_open_with_a_new_sampler(mine, tmp_path):
    network = tiny()
    as_denoiser(network, Diffusion(Absorbing(3)))
    network.config.discrete_diffusion["sampler"] = {"type": "restart"}
    network.save_pretrained(tmp_path)
    pipe = DiscreteDiffusionPipeline.from_pretrained(tmp_path)
    pipe.set_progress_bar_config(disable=True)
    out = pipe(batch_size=3, num_inference_steps=2, output_type="tokens")
    assert out.num_network_calls == 4 and int(out.sequences.max()) < 2
    run("sample", tmp_path, "--steps", 2, "--count", 1, "--device", "cpu")


def test_student_of_a_new_step_rule_does_not_open_with_it(mine, tmp_path):
    objective = {"type": "law_matching", "sampler": "hops"}
    trainer = distilling(tmp_path, objective=objective)
    trainer.train()
    trainer.save_model()
    pipe = DiscreteDiffusionPipeline.from_pretrained(tmp_path)
    assert pipe.scheduler.sampler == mine.step_rule.Hops()


def test_chances_of_a_new_sampler_are_not_those_of_its_rule(mine):
    sampler, diffusion, seen = mine.patient.Patient(), Diffusion(Absorbing(3)), []
    said = Prediction(torch.tensor([0.25, 0.75, 1e-300]).double().log().expand(1, 2, 3))
    rule = sampler.rule(said, diffusion, torch.tensor([[2, 2]]), 0.4, 0.5)
    reveal = sampler.step_chances(diffusion, 0.4, 0.5).reveal
    torch.testing.assert_close(rule[0, 0], torch.stack([reveal / 4, 3 * reveal / 4, 1 - reveal]))
    denoiser = as_denoiser(tiny(), diffusion)
    denoiser.network.model.lm_head.register_forward_hook(lambda *hook: seen.append(len(hook[2])))
    sampler.sample(denoiser, Canvas.empty((2, 64)), 3)
    assert sum(seen) == 2 * 64, "positions were asked for that are not drawn"


def test_masked_denoiser_refuses_a_new_unmasking_rule(mine):
    sampler = UnmaskingSampler("halves")
    denoiser = as_denoiser(tiny(), Diffusion(Absorbing(3)))
    x_0 = sampler.sample(denoiser, Canvas.empty((2, 64)), 3)
    assert int(x_0.max()) < 2


def test_decoder_refuses_a_new_unmasking_rule():
    model = block_model()
    out = model.generate(torch.tensor([[3, 4]]), max_new_tokens=8, unmasking="halves")
    assert out.shape == (1, 10)


def test_laboratory_refuses_a_new_process_or_objective(tmp_path):
    file = tmp_path / "rows.json"
    words = ["exact", "--problem", "digits", "--process", "blank", "--nfe", 2, "--json", file]
    words += ["--objective", "adversarial", '{"type": "ecd", "coupling": "two_views"}']
    words += ['{"type": "law_matching", "sampler": "hops"}']
    run(*words, "--calls", 8, "--rows", 16, "--width", 16, "--start-steps", 4, "--draws", 64)
    found = json.loads(file.read_text())["rows"]
    assert {"teacher", "adversarial", "ecd", "law_matching"} <= {row["method"] for row in found}
    assert all(0 <= row["tv"] <= 1 for row in found)


def test_cli_refuses_one_of_each(mine, teacher, tmp_path):
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows(16)))
    short = ["--steps", 2, "--batch-size", 4, "--cpu", "--data", data]
    small = ["--hidden-size", 16, "--layers", 1, "--heads", 2]
    words = ["teacher", "--process", "blank", "--schedule", "quadratic", *small, *short]
    run(*words, "--vocab-size", 2, "--output", tmp_path / "teacher")
    words = ["distill", "--teacher", teacher, "--objective", "adversarial", *short]
    run(*words, "--output", tmp_path / "student")
    file = tmp_path / "figures.json"
    words = ["evaluate", teacher, "--judge", "ink", "--nfe", 2, "--samples", 4]
    run(*words, "--device", "cpu", "--json", file)
    assert "ink" in json.loads(file.read_text())["rows"][0]


def test_cli_does_not_recognise_the_folder_of_a_new_converter(mine, tmp_path):
    mine.converter.Plain.example(tmp_path / "plain")
    run("convert", tmp_path / "plain", "--output", tmp_path / "converted")
    assert (tmp_path / "converted" / "model.safetensors").is_file()
