"""A student is sampled with what it was trained for, wherever it is opened."""

from __future__ import annotations

import pytest
import torch
from training_runs import distilling

from hf_ddistill import DiscreteDiffusionPipeline, as_denoiser
from hf_ddistill.cli.sample import open_pipeline
from hf_ddistill.models import sampler_of
from hf_ddistill.pipelines.text_pipeline import DiscreteDiffusionGenerationPipeline
from hf_ddistill.samplers import Ancestral, Canvas, Jump
from hf_ddistill.schedulers import AncestralScheduler, JumpScheduler

SETTINGS = {"max_steps": 2, "collapse_share": 0, "student_steps": 3}


@pytest.fixture(scope="module")
def jumper(tmp_path_factory):
    """The folder of a student that was trained for jumps, and its trainer."""
    folder = tmp_path_factory.mktemp("jumper")
    objective = {"type": "law_matching", "sampler": "jump"}
    trainer = distilling(folder, objective=objective, **SETTINGS)
    trainer.train()
    trainer.save_model()
    return folder, trainer


def test_a_student_of_jumps_opens_with_jumps_everywhere(jumper, tmp_path):
    folder, _ = jumper
    pipe = DiscreteDiffusionPipeline.from_pretrained(folder)
    assert type(pipe.scheduler) is JumpScheduler and sampler_of(pipe.model) == Jump()
    pipe.save_pretrained(tmp_path / "pipe")
    again = DiscreteDiffusionPipeline.from_pretrained(tmp_path / "pipe")
    assert type(again.scheduler) is JumpScheduler
    assert type(open_pipeline(str(folder), None, None, None).scheduler) is JumpScheduler
    generate = DiscreteDiffusionGenerationPipeline(pipe.model, tokenizer=None)
    drawn = generate(num_return_sequences=4, generator=torch.Generator().manual_seed(0))
    expected = Jump().sample(
        as_denoiser(pipe.model),
        Canvas.empty((4, len(drawn[0]["generated_token_ids"]))),
        3,
        torch.Generator().manual_seed(0),
    )
    assert [row["generated_token_ids"] for row in drawn] == expected.tolist()


def test_samples_that_judge_a_training_are_of_the_student_s_own_sampler(jumper):
    _, trainer = jumper
    torch.manual_seed(0)
    drawn = trainer.sample(64, num_steps=4)
    config = trainer.model.config
    config.discrete_diffusion = {**config.discrete_diffusion, "sampler": "ancestral"}
    other = trainer.sample(64, num_steps=4)
    config.discrete_diffusion = {**config.discrete_diffusion, "sampler": Jump().to_config()}
    assert torch.equal(trainer.sample(64, num_steps=4), drawn)
    assert not torch.equal(other, drawn)


def test_a_student_of_another_objective_forgets_the_sampler_of_its_start(jumper, tmp_path):
    folder, _ = jumper
    model = DiscreteDiffusionPipeline.from_pretrained(folder).model
    trainer = distilling(tmp_path, model=model, objective="ecd", **SETTINGS)
    trainer.train()
    assert sampler_of(trainer.model) == Ancestral()
    pipe = DiscreteDiffusionPipeline.from_model(trainer.model)
    assert type(pipe.scheduler) is AncestralScheduler


def test_a_sampler_that_cannot_be_read_is_refused_in_a_sentence(jumper):
    folder, _ = jumper
    model = DiscreteDiffusionPipeline.from_pretrained(folder).model
    model.config.discrete_diffusion["sampler"] = "jumpp"
    with pytest.raises(ValueError, match="cannot be read: Unknown sampler 'jumpp'.*'jump'"):
        DiscreteDiffusionPipeline.from_model(model)


def test_rate_that_ends_learned_powers_is_called_by_its_name_and_costs_no_checkpoint(tmp_path):
    objective = {"type": "lsd", "learned": "powers", "teacher_steps": 4}
    settings = {"max_steps": 3, "save_strategy": "steps", "save_steps": 1, "student_steps": 2}
    settings |= {"collapse_share": 0, "objective": objective}
    # A step of Adam moves a logarithm by the rate: of a law to the power exp(4) nothing is left.
    wild = distilling(tmp_path, **settings, auxiliary_learning_rate=4)
    with pytest.raises(ValueError, match="objective 'lsd' .*learned='powers'.*lower auxiliary_le"):
        wild.train()
    kept = DiscreteDiffusionPipeline.from_pretrained(tmp_path / "checkpoint-1")
    assert all(power > 10 for power in sampler_of(kept.model).powers)
    assert kept(batch_size=2, generator=torch.Generator().manual_seed(0)).sequences.max() < 2
    with pytest.raises(ValueError, match="lower auxiliary_learning_rate"):
        distilling(tmp_path, **settings, auxiliary_learning_rate=4).train(
            resume_from_checkpoint=str(tmp_path / "checkpoint-1")
        )
