"""A pipeline that was saved or pushed samples the same bits elsewhere, by either library's door."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from pipeline_cases import letters, made, piped, seeded

from hf_ddistill.pipelines import DiscreteDiffusionPipeline
from hf_ddistill.processes import Absorbing, Hybrid, Ordinal, Uniform
from hf_ddistill.schedulers import AncestralScheduler, CTMCEulerScheduler

ROOT = Path(__file__).parents[2]
REPO, MODEL_REPO = "tester/pipeline", "tester/model"

# One program: nearly all of its time goes into its imports.
PUSH_AND_SAMPLE = """
import sys
import torch
from transformers import pipeline
from hf_ddistill.pipelines import DiscreteDiffusionPipeline
from hf_ddistill.schedulers import CTMCEulerScheduler

folder, repo, model_repo, output = sys.argv[1:]
pipe = DiscreteDiffusionPipeline.from_pretrained(folder)
pipe.push_to_hub(repo)
pipe.model.push_to_hub(model_repo)
pipe.tokenizer.push_to_hub(model_repo)

pipe = DiscreteDiffusionPipeline.from_pretrained(repo)
out = pipe("ab", batch_size=4, generator=torch.manual_seed(7))
torch.save((type(pipe.scheduler).__name__, out.sequences, out.texts), output)

scheduler = CTMCEulerScheduler.from_pretrained(repo, subfolder="scheduler")
assert scheduler.config == pipe.scheduler.config, (scheduler.config, pipe.scheduler.config)
pushed = pipe.model.state_dict()
plain = DiscreteDiffusionPipeline.from_pretrained(model_repo)
generate = pipeline("discrete-diffusion", model=model_repo, device="cpu")
for model in (plain.model, generate.model):
    for name, value in model.state_dict().items():
        assert torch.equal(value, pushed[name]), name
again = generate("ab", scheduler=scheduler, num_return_sequences=4, generator=torch.manual_seed(7))
assert [row["generated_text"] for row in again] == out.texts, again
"""


def run(source, *arguments, env):
    """Run `source` as a program of its own that imports this copy of the package."""
    env = {**env, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", source, *map(str, arguments)],
        env=env,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def with_letters():
    return piped(
        made(time_conditioning=True),
        CTMCEulerScheduler,
        letters(),
        temperature=0.8,
        num_inference_steps=5,
    )


@pytest.mark.parametrize(
    "process", [Absorbing(6), Uniform(6), Hybrid(6), Ordinal(6)], ids=lambda p: p.id
)
def test_saved_and_loaded_a_pipeline_samples_the_same_bits(process, tmp_path):
    pipe = piped(made(process, num_classes=2, noise_dim=2), CTMCEulerScheduler, top_k=3)
    pipe.save_pretrained(tmp_path)
    loaded = DiscreteDiffusionPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert type(loaded.scheduler) is CTMCEulerScheduler and loaded.tokenizer is None
    given = {"class_labels": [0, 1, 1], "guidance_scale": 1.5, "num_inference_steps": 3}
    expected = pipe(**given, generator=seeded()).sequences
    assert torch.equal(loaded(**given, generator=seeded()).sequences, expected)


@pytest.mark.slow
def test_a_pushed_pipeline_samples_the_same_bits_in_another_process(local_hub, tmp_path):
    pipe = with_letters()
    pipe.save_pretrained(tmp_path / "pipe")
    output = tmp_path / "out.pt"
    run(PUSH_AND_SAMPLE, tmp_path / "pipe", REPO, MODEL_REPO, output, env=local_hub.env)
    assert set(local_hub.files(REPO)) >= {
        "model_index.json",
        "model.safetensors",
        "scheduler/scheduler_config.json",
        "tokenizer.json",
    }
    scheduler, sequences, texts = torch.load(output)
    expected = pipe("ab", batch_size=4, generator=seeded(7))
    assert scheduler == "CTMCEulerScheduler" and texts == expected.texts
    assert torch.equal(sequences, expected.sequences)


def test_a_component_given_to_from_pretrained_replaces_the_saved_one(tmp_path):
    with_letters().save_pretrained(tmp_path)
    scheduler = AncestralScheduler(Absorbing(6), top_k=2)
    pipe = DiscreteDiffusionPipeline.from_pretrained(tmp_path, scheduler=scheduler)
    assert pipe.scheduler is scheduler and pipe.tokenizer is not None


def test_a_model_folder_is_loaded_as_a_pipeline_with_the_students_steps(tmp_path):
    model = made(Uniform(6))
    model.config.discrete_diffusion["num_inference_steps"] = 2
    model.save_pretrained(tmp_path)
    pipe = DiscreteDiffusionPipeline.from_pretrained(tmp_path)
    assert type(pipe.scheduler) is AncestralScheduler and pipe.tokenizer is None
    assert pipe.scheduler.diffusion.process == Uniform(6)
    expected = piped(model)(batch_size=3, generator=seeded())
    out = pipe(batch_size=3, generator=seeded())
    assert out.num_network_calls == 2 and torch.equal(out.sequences, expected.sequences)
    letters().save_pretrained(tmp_path)
    assert len(DiscreteDiffusionPipeline.from_pretrained(tmp_path)().texts) == 1


def test_transformers_pipeline_draws_what_the_other_pipeline_draws(tmp_path):
    model = made(token_shape=[2, 4], noise_dim=2)
    model.save_pretrained(tmp_path)
    generate = transformers.pipeline("discrete-diffusion", model=str(tmp_path), device="cpu")
    assert generate.tokenizer is None
    expected = piped(model, temperature=0.6)(
        batch_size=3, num_inference_steps=4, generator=seeded()
    )
    rows = generate(
        num_return_sequences=3, num_inference_steps=4, temperature=0.6, generator=seeded()
    )
    assert [row["generated_token_ids"] for row in rows] == expected.sequences.tolist()
    assert list(rows[0]) == ["generated_token_ids"]
    (row,) = generate(output_type="image", num_inference_steps=1)
    assert row["generated_image"].size == (4, 2)
    with pytest.raises(ValueError, match="takes no max_tokens; it takes: .*num_inference"):
        generate(max_tokens=3)
    with pytest.raises(ValueError, match="needs a tokenizer"):
        generate("ab")


def test_a_saved_transformers_pipeline_asks_for_no_remote_code(tmp_path):
    task = "discrete-diffusion"
    generate = transformers.pipeline(task, model=made(), tokenizer=letters(), device="cpu")
    generate.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.py"))
    assert "custom_pipelines" not in json.loads((tmp_path / "config.json").read_text())
    again = transformers.pipeline(task, model=str(tmp_path), num_inference_steps=2, device="cpu")
    assert again("ab")[0]["generated_text"].startswith("ab")
