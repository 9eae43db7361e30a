"""What a training step must not cost: copies of the weights, and waits for the device."""

from __future__ import annotations

import pytest
import torch
from recording_device import RecordingDevice
from torch.profiler import profile
from training_runs import differing

from hf_ddistill.training.callbacks.ema import WeightAverage
from hf_ddistill.training.losses import Parts


def test_mean_of_bfloat16_weights_is_not_lost_to_rounding():
    model = torch.nn.Linear(4, 4, dtype=torch.bfloat16)
    torch.nn.init.ones_(model.weight)
    average = WeightAverage(model, 0.999)
    torch.nn.init.constant_(model.weight, 1.1)
    state = type("State", (), {"global_step": 10**6})()
    for _ in range(1000):
        average.on_step_end(None, state, None)
    assert float(average.mean["weight"].mean()) == pytest.approx(1.1 - 0.1 * 0.368, abs=0.002)


def test_mean_of_weights_moves_in_place_in_one_pass():
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    average, state = WeightAverage(model, 0.9), type("State", (), {"global_step": 5})()
    places = {name: mean.data_ptr() for name, mean in average.mean.items()}
    expected = {n: m.lerp(m + 1, 1 - min(0.9, 6 / 15)) for n, m in average.mean.items()}
    with torch.no_grad():
        for weight in model.parameters():
            weight += 1
    with profile() as seen:
        average.on_step_end(None, state, None)
    assert {name: mean.data_ptr() for name, mean in average.mean.items()} == places
    assert not differing(average.mean, expected)
    assert sum(event.name == "aten::_foreach_lerp_" for event in seen.events()) == 1


def test_figures_of_micro_batches_are_waited_for_once_in_a_log():
    with RecordingDevice() as recorder:
        parts = Parts()
        for number in (1.0, 2.0, 6.0):
            figures = {"loss": torch.tensor(number, device=recorder.device)}
            if number > 1:
                figures["reward"] = figures["loss"] / 2
            parts.add(figures | {"steps": torch.tensor(number)})
        assert not recorder.reads, recorder.report()
        means = parts.means()
        assert recorder.reads.total() == 1, recorder.report()
    assert means == {"loss": 3.0, "reward": 2.0, "steps": 3.0}
    parts.add({"loss": torch.tensor(5.0)})
    assert parts.means() == {"loss": 5.0} and parts.means() == {}
