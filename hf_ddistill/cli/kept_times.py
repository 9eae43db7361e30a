"""A model's folder once more, with times of its own for its sampler."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hf_ddistill.hub import load_pipeline, read_card
from hf_ddistill.models import enter_sampler
from hf_ddistill.outputs import check_folder, writing
from hf_ddistill.samplers import GivenTimes, Sampler
from hf_ddistill.schedulers import DiscreteSchedulerBase, scheduler_for


def keep_times(name: str, times: Sequence[float], output: str, overwrite: bool = False) -> None:
    """Write a pipeline folder of a model whose sampler makes its steps at these times: both the
    scheduler's configuration and the model's say so. The model's own folder stays as it is.

    Args:
        name: folder or Hub id of the model or pipeline.
        times: from 1 down to 0.
        output: a new or empty folder.
        overwrite: whether files of ours that are there may be replaced.

    Raises:
        ValueError: if the folder may not be written.
    """
    check_folder(output, overwrite=overwrite, sources=[name])
    pipe, steps = load_pipeline(name), len(times) - 1
    kept = GivenTimes(_base(pipe.scheduler), times)
    kind, own = scheduler_for(kept)
    config = pipe.scheduler.config
    pipe.scheduler = kind.from_config(config, **own, num_inference_steps=steps)
    enter_sampler(pipe.model, kept, steps)
    with writing(output) as draft:
        pipe.save_pretrained(draft)
        (draft / "README.md").write_text(_card(name, times), encoding="utf-8")


def _base(scheduler: DiscreteSchedulerBase) -> Sampler:
    """The sampler that a scheduler was made with, without times that it has already."""
    given = scheduler.config.get("sampler")
    sampler = scheduler.kind() if given is None else Sampler.from_config(given)
    return sampler.base if isinstance(sampler, GivenTimes) else sampler


def _card(name: str, times: Sequence[float]) -> str:
    """The model's card, if it has one, and what is new."""
    try:
        told = read_card(name).rstrip()
    except ValueError:
        told = f"# {Path(name).name}"
    listed = ", ".join(f"{time:.6g}" for time in times)
    return (
        f"{told}\n\n## Times\n\nIts sampler makes {len(times) - 1} steps at the times {listed}, at "
        "which they lose the least (`hf-ddistill diagnose --best-times`; Park et al., Jump Your "
        "Steps, 2024, arXiv:2410.07761).\n"
    )
