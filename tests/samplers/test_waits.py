"""What a sample makes the host wait for, on a device that only records."""

from __future__ import annotations

import pytest
import torch
from pipeline_cases import made, piped, seeded
from recording_device import RecordingDevice

from hf_ddistill.linalg import asked_at_the_end
from hf_ddistill.models import as_denoiser
from hf_ddistill.samplers import Ancestral, Canvas
from hf_ddistill.schedulers import AncestralScheduler


def on(device, work):
    """What is recorded of `work` the second time, and what it returns."""
    with device, torch.no_grad():
        work()
        device.clear()
        found = work()
    return device, device.cpu(found)


@pytest.fixture
def device():
    return RecordingDevice()


@pytest.fixture
def denoiser(device):
    with device:
        return as_denoiser(made().to(device.device))


def sampled(denoiser, device, n, on_step=None):
    canvas = Canvas.empty((4, 8))
    with device:
        canvas = canvas.to(device.device)
    return on(device, lambda: Ancestral().sample(denoiser, canvas, n, seeded(), on_step))


def test_a_planned_sample_waits_as_often_for_many_steps_as_for_few(denoiser, device):
    counts = []
    for n in (2, 24):
        recorder, _ = sampled(denoiser, device, n)
        counts.append((recorder.reads.total(), recorder.copies.total()))
    # Given tokens in the vocabulary, positions, and the checks of all calls.
    assert counts[0] == counts[1] and counts[0][0] <= 3, recorder.report()


def test_its_tokens_are_those_of_the_host(denoiser, device):
    _, found = sampled(denoiser, device, 5)
    expected = Ancestral().sample(as_denoiser(made()), Canvas.empty((4, 8)), 5, seeded())
    assert torch.equal(found, expected)


def test_a_step_that_is_watched_waits_once(denoiser, device):
    recorder, _ = sampled(denoiser, device, 12, lambda reached: None)
    assert recorder.reads.total() <= 12 + 3, recorder.report()
    assert max(recorder.reads.values()) == 12


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.8, "top_p": 0.9}], ids=str)
def test_a_scheduler_s_step_waits_for_its_positions_and_its_checks(device, settings):
    config = made().config.discrete_diffusion
    scheduler = AncestralScheduler(config["process"], config["schedule"], **settings)
    scheduler.set_timesteps(8)
    with device:
        x = torch.full((4, 8), 5).to(device.device)
        logits = torch.randn(4, 8, 6).to(device.device)

    def work():
        return scheduler.step(logits, 0.5, x, generator=seeded()).prev_sample

    recorder, found = on(device, work)
    assert recorder.reads.total() == 2, recorder.report()
    assert torch.equal(
        found, scheduler.step(logits.held, 0.5, x.held, generator=seeded()).prev_sample
    )
    with device, asked_at_the_end():
        recorder.clear()
        work()
        assert recorder.reads.total() == 1, recorder.report()


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.8, "top_k": 3}], ids=str)
def test_a_call_of_a_pipeline_waits_as_often_for_many_steps_as_for_few(device, settings):
    with device:
        pipe = piped(made().to(device.device), **settings)
    counts = []
    for n in (2, 24):
        recorder, _ = on(
            device,
            lambda n=n: pipe(batch_size=4, num_inference_steps=n, generator=seeded()).sequences,
        )
        counts.append((recorder.reads.total(), recorder.copies.total()))
    assert counts[0] == counts[1] and counts[0][0] <= 5, recorder.report()
