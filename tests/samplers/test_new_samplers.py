"""A sampler is one file: two that calls for more than a step rule, through everything.

Each file is put into a temporary package and imported; nothing else is touched.
"""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from cli_runs import run
from exact_bayes import ExactBayes, total_variation
from pipeline_cases import made, seeded
from training_runs import distilling

from hf_ddistill import DiscreteDiffusionPipeline
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.laboratory import terminal_law
from hf_ddistill.objectives import LawMatching
from hf_ddistill.processes import Absorbing, Uniform
from hf_ddistill.samplers import Ancestral, Canvas, Sampler
from hf_ddistill.schedulers import SamplerScheduler
from hf_ddistill.schedules import Cosine

FILES = Path(__file__).parents[1] / "support" / "new_samplers"
CALLS = {"halves": 2, "leftmost": 1}  # a step
L = 2


@pytest.fixture(scope="module", params=CALLS)
def sampler(request, tmp_path_factory):
    """A new member of the family, out of a package with its one file."""
    known, folder = dict(Sampler.registry), tmp_path_factory.mktemp("theirs")
    shutil.copy(FILES / f"{request.param}.py", folder)
    sys.path.insert(0, str(folder))
    importlib.import_module(request.param)
    yield Sampler.named(request.param)()
    sys.path.remove(str(folder))
    del sys.modules[request.param]
    Sampler.registry.clear()
    Sampler.registry.update(known)


def distance(sampler, problem, steps, draws=40_000):
    """Of its law from the data's, in total variation; by draws where times are drawn."""
    if sampler.id != "first_hitting":
        grid = sampler.grid(steps, problem.diffusion)
        law = terminal_law(problem.denoiser(), problem.diffusion, L, grid, sampler)
        return total_variation(law, problem.law)
    x = sampler.sample(problem.denoiser(), Canvas.empty((draws, L)), steps, seeded(1))
    found = problem.index(x).bincount(minlength=len(problem.data)).double() / draws
    return total_variation(found, problem.data)


@pytest.mark.slow
def test_its_law_is_nearer_to_the_data_s_than_that_of_as_many_single_steps(sampler):
    for process in (Absorbing(4), Uniform(4)):
        problem = ExactBayes.random(Diffusion(process, Cosine()), L)
        if sampler.id == "leftmost" and not problem.diffusion.reveals:
            with pytest.raises(ValueError, match="masks that reveal"):
                sampler.sample(problem.denoiser(), Canvas.empty((1, L)), 1)
        elif sampler.id == "leftmost":
            assert distance(sampler, problem, L) < 0.012, "one token a call is exact"
        else:
            single = distance(Ancestral(), problem, 4)
            assert distance(sampler, problem, 4) < 0.85 * single
            assert distance(sampler, problem, 32) < 0.015


def test_its_law_is_that_of_what_it_draws_where_its_draws_can_be_enumerated(sampler):
    problem = ExactBayes.random(Diffusion(Absorbing(4), Cosine()), L)
    run = (problem.denoiser(), problem.diffusion, L, [1.0, 0.5, 0.0], sampler)
    if sampler.id == "first_hitting":
        with pytest.raises(ValueError, match="continuous law cannot be enumerated"):
            terminal_law(*run)
        return
    law, draws = terminal_law(*run), 40_000
    x = sampler.sample(problem.denoiser(), Canvas.empty((draws, L)), 2, seeded(1))
    found = problem.index(x).bincount(minlength=16)[problem.index(problem.clean)] / draws
    assert ((found - law).abs() <= 4.5 * (law * (1 - law) / draws).sqrt()).all()


def test_a_pipeline_opens_with_it_runs_it_and_keeps_it(sampler, tmp_path):
    model = made(noise_dim=2)
    entry = {**model.config.discrete_diffusion, "sampler": sampler.to_config()}
    model.config.discrete_diffusion = entry | {"num_inference_steps": 3}
    model.save_pretrained(tmp_path / "student")
    pipe = DiscreteDiffusionPipeline.from_pretrained(tmp_path / "student")
    assert type(pipe.scheduler) is SamplerScheduler and pipe.scheduler.sampler == sampler
    pipe.set_progress_bar_config(disable=True)
    out = pipe(batch_size=2, input_ids=torch.tensor([1, 2]), generator=seeded())
    assert 0 < out.num_network_calls <= 3 * CALLS[sampler.id]
    assert out.sequences[:, :2].tolist() == [[1, 2]] * 2 and out.sequences.max() < 5
    pipe.scheduler = SamplerScheduler.from_config(pipe.scheduler.config, temperature=0.0)
    cold = pipe(batch_size=2, generator=seeded(1)).sequences
    assert cold.max() < 5
    pipe.save_pretrained(tmp_path / "pipe")
    again = DiscreteDiffusionPipeline.from_pretrained(tmp_path / "pipe")
    assert again.scheduler.sampler == sampler
    assert torch.equal(again(batch_size=2, generator=seeded(1)).sequences, cold)
    assert run("sample", tmp_path / "student", "--count", 2, "--json", tmp_path / "rows.json") == 0
    written = json.loads((tmp_path / "rows.json").read_text())
    assert 0 < written["nfe"] <= 3 * CALLS[sampler.id]


def test_a_teacher_s_steps_can_be_its(sampler, tmp_path):
    coupling = {"type": "teacher", "substeps": 2, "sampler": sampler.to_config()}
    trainer = distilling(tmp_path, objective={"type": "ecd", "coupling": coupling}, max_steps=2)
    trainer.train()
    assert trainer.state.log_history[-1]["train_loss"] > 0


def test_what_needs_a_step_rule_says_so_in_one_sentence(sampler):
    problem = ExactBayes.random(Diffusion(Absorbing(4), Cosine()), L)
    with pytest.raises(ValueError, match="no product over positions.*schedulers and rollouts of"):
        x = torch.zeros(1, L, dtype=torch.int64)
        sampler.rule(problem.denoiser()(x, 1.0), problem.diffusion, x, 0.5, 1.0)
    scheduler = SamplerScheduler(**problem.diffusion.to_config(), sampler=sampler.to_config())
    with pytest.raises(ValueError, match="not known from one output.*Pipeline runs it"):
        scheduler.step(torch.zeros(1, L, 4), 1.0, torch.full((1, L), 3))
    with pytest.raises(ValueError, match="sampler with a step rule, such as 'ancestral'"):
        LawMatching(sampler=sampler)
