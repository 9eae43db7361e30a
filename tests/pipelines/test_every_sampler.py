"""Every sampler of the family in a pipeline, as a student keeps it; a new one is tried by being
registered."""

from __future__ import annotations

import pytest
import torch
from pipeline_cases import made, piped, seeded

from hf_ddistill.samplers import Sampler
from hf_ddistill.schedulers import SamplerScheduler

FAMILY = [kind() for kind in Sampler.registry.values()]


@pytest.mark.parametrize("sampler", FAMILY, ids=lambda sampler: sampler.id)
def test_a_pipeline_runs_it_holds_the_prompt_and_keeps_it(sampler):
    pipe = piped(made(), SamplerScheduler, sampler=sampler.to_config(), temperature=0.8)
    settings = {"input_ids": torch.tensor([1, 2]), "num_inference_steps": 2, "generator": seeded()}
    out = pipe(batch_size=3, **settings)
    assert out.sequences[:, :2].tolist() == [[1, 2]] * 3
    assert out.sequences.max() < 5, "no mask is left"
    assert out.num_network_calls >= 1
    again = SamplerScheduler.from_config(pipe.scheduler.config)
    assert type(again.sampler) is type(sampler)
    assert again.config["sampler"] == sampler.to_config()
