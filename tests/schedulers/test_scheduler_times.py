"""The steps of a scheduler: how many, at which times, in the numbers of other libraries."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from scheduler_cases import SCHEDULERS, made, schedulers, seeded

from hf_ddistill.processes import Absorbing, Uniform
from hf_ddistill.schedulers import AncestralScheduler


@pytest.mark.parametrize("steps", [0, -3, 2.5, True, "8", None, 100_001, np.float64(8)])
def test_a_number_of_steps_that_is_none_is_refused(steps):
    with pytest.raises(ValueError, match="`num_inference_steps`"):
        made(AncestralScheduler, Uniform(3)).set_timesteps(steps)


def test_a_config_with_a_hundred_million_steps_is_refused_and_takes_no_memory(tmp_path):
    made(AncestralScheduler, Uniform(3)).save_pretrained(tmp_path)
    file = tmp_path / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"num_inference_steps": 10**8}))
    with pytest.raises(ValueError, match="at most 100000, got 100000000"):
        AncestralScheduler.from_pretrained(tmp_path)


@pytest.mark.parametrize("steps", [np.int64(8), np.uint8(8), torch.tensor(8)], ids=repr)
def test_the_integers_of_other_libraries_are_numbers_of_steps(steps, tmp_path):
    scheduler = made(AncestralScheduler, Uniform(3), num_inference_steps=steps)
    scheduler.set_timesteps(steps)
    assert len(scheduler.timesteps) == scheduler.num_inference_steps == 8
    scheduler.save_pretrained(tmp_path)
    assert AncestralScheduler.from_pretrained(tmp_path).config.num_inference_steps == 8


def test_the_floats_of_numpy_are_settings_that_can_be_saved(tmp_path):
    settings = {"temperature": np.float32(0.5), "top_p": np.float64(0.75), "top_k": np.int32(2)}
    made(AncestralScheduler, Uniform(3), **settings).save_pretrained(tmp_path)
    loaded = AncestralScheduler.from_pretrained(tmp_path).config
    assert (loaded.temperature, loaded.top_p, loaded.top_k) == (0.5, 0.75, 2)


def test_given_timesteps_are_stepped_through(tmp_path):
    scheduler = made(AncestralScheduler, Absorbing(4))
    for times in ([1.0, 0.3], np.array([1.0, 0.3]), torch.tensor([1.0, 0.3])):
        scheduler.set_timesteps(timesteps=times)
        assert scheduler.timesteps.tolist() == pytest.approx([1.0, 0.3])
        assert scheduler.num_inference_steps == 2
    x, logits = torch.full((4000, 1), 3), torch.zeros(4000, 1, 4)
    first = scheduler.step(logits, 1.0, x, generator=seeded()).prev_sample
    assert abs(float((first == 3).double().mean()) - 0.3) < 0.03, "the step is not to t = 0.3"
    assert scheduler.step(logits, 0.3, first, generator=seeded()).prev_sample.max() < 3


@pytest.mark.parametrize(
    "times", [[], [0.3, 1.0], [1.0, 1.0], [1.5, 0.5], [1.0, 0.0], [1.0, float("nan")]]
)
def test_timesteps_that_do_not_decrease_in_the_interval_are_refused(times):
    with pytest.raises(ValueError, match="`timesteps` must"):
        made(AncestralScheduler, Uniform(3)).set_timesteps(timesteps=times)
    with pytest.raises(ValueError, match="one of both"):
        made(AncestralScheduler, Uniform(3)).set_timesteps(4, timesteps=[1.0])


@schedulers
def test_the_compatible_schedulers_are_the_others(scheduler_class):
    scheduler = made(scheduler_class, Uniform(3), temperature=0.5)
    assert set(scheduler.compatibles) == set(SCHEDULERS)
    for other in scheduler.compatibles:
        assert other.from_config(scheduler.config).config.temperature == 0.5
