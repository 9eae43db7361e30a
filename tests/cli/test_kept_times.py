"""`diagnose --best-times N --output FOLDER`: every pipeline of the folder has the times."""

from __future__ import annotations

import pytest
import transformers
from block_runs import converted
from cli_runs import ddit, refused
from pipeline_cases import seeded

from hf_ddistill.cli.kept_times import keep_times
from hf_ddistill.models import DDiTForDiscreteDiffusion, sampler_of
from hf_ddistill.pipelines import DiscreteDiffusionPipeline
from hf_ddistill.samplers import GivenTimes, ThetaTrapezoidal
from hf_ddistill.schedulers import SamplerScheduler

TIMES = [1.0, 0.55, 0.1, 0.0]


@pytest.fixture
def saved(tmp_path):
    """A pipeline with a sampler and a temperature of its own, and a card."""
    model = DDiTForDiscreteDiffusion.from_pretrained(ddit(tmp_path / "model"))
    pipe = DiscreteDiffusionPipeline.from_model(
        model, SamplerScheduler, sampler="theta_trapezoidal", temperature=0.7
    )
    pipe.save_pretrained(tmp_path / "saved")
    (tmp_path / "saved" / "README.md").write_text("# Mine\n")
    return tmp_path / "saved"


def files(folder):
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_a_door_opens_other_times_or_another_sampler(saved, tmp_path):
    before = files(saved)
    keep_times(str(saved), TIMES, str(tmp_path / "timed"))
    assert files(saved) == before
    pipe = DiscreteDiffusionPipeline.from_pretrained(tmp_path / "timed")
    assert pipe.scheduler.sampler == GivenTimes(ThetaTrapezoidal(), TIMES)
    assert pipe.scheduler.timesteps.tolist() == TIMES[:-1]
    assert (pipe.scheduler.config.temperature, pipe.scheduler.config.num_inference_steps) == (
        0.7,
        3,
    )
    assert sampler_of(pipe.model) == pipe.scheduler.sampler
    alone = SamplerScheduler.from_pretrained(tmp_path / "timed", subfolder="scheduler")
    assert alone.timesteps.tolist() == TIMES[:-1]
    generate = transformers.pipeline("discrete-diffusion", model=str(tmp_path / "timed"))
    pipe.set_progress_bar_config(disable=True)
    (row,) = generate(generator=seeded())
    assert row["generated_token_ids"] == pipe(generator=seeded()).sequences[0].tolist()
    card = (tmp_path / "timed" / "README.md").read_text()
    assert card.startswith("# Mine") and "1, 0.55, 0.1, 0" in card


def test_times_are_put_around_times_or_over_what_is_a_user_s(saved, tmp_path):
    keep_times(str(saved), TIMES, str(tmp_path / "timed"))
    keep_times(str(tmp_path / "timed"), [1.0, 0.5, 0.0], str(tmp_path / "again"))
    pipe = DiscreteDiffusionPipeline.from_pretrained(tmp_path / "again")
    assert pipe.scheduler.sampler == GivenTimes(ThetaTrapezoidal(), [1.0, 0.5, 0.0])
    keep_times(str(saved), [1.0, 0.3, 0.0], str(tmp_path / "again"), overwrite=True)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(ValueError, match=r"notes\.txt|nothing in"):
            keep_times(str(saved), TIMES, str(mine), overwrite)
    assert files(mine) == {"notes.txt": b"mine"}


def test_a_folder_that_may_not_be_written_is_told_after_work(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    said = refused(
        capsys, "diagnose", tmp_path / "no_model", "--best-times", 4, "--output", tmp_path
    )
    assert "not empty" in said


def test_times_are_kept_for_a_model_that_decodes_by_blocks(tmp_path, capsys):
    converted().save_pretrained(tmp_path / "blocks")
    out = tmp_path / "out"
    argv = ["diagnose", tmp_path / "blocks", "--best-times", 4, "--output", out]
    assert "decodes by blocks" in refused(capsys, *argv) and not out.exists()
