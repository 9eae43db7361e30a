"""On a device nothing waits, and what a process always needs is there already."""

from __future__ import annotations

import pytest
import torch
from ddit_cases import build
from recording_device import RecordingDevice

from hf_ddistill import Absorbing, Diffusion, Hybrid, Uniform
from hf_ddistill.models import as_denoiser
from hf_ddistill.parameterizations import Conditional, Prediction
from hf_ddistill.samplers import Analytic, Ancestral, Canvas, Euler, Jump, TauLeaping

PROCESSES = {
    "uniform": Uniform(300),
    "absorbing": Absorbing(300, 7),
    "hybrid": Hybrid(300, mask_token_id=7),
}
SAMPLERS = (Ancestral(), Analytic(), Euler(), TauLeaping(), Jump())


def recorded(work, *tensors):
    """What the second run of some work makes the host do; the first one leaves constants there."""
    recorder = RecordingDevice()
    with recorder:
        there = [x.to(recorder.device) for x in tensors]
        work(*there)
        recorder.clear()
        out = work(*there)
    return recorder, recorder.cpu(out)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: sampler.id)
@pytest.mark.parametrize("name", PROCESSES)
def test_a_step_rule_between_times_of_the_host_waits_for_nothing(name, sampler):
    diffusion = Diffusion(PROCESSES[name])
    logits, x_t = torch.randn(2, 4, 300), torch.randint(0, 300, (2, 4))

    def work(logits, x_t):
        log_p = Conditional().to_log_conditional(logits, diffusion, x_t, None)
        return sampler.rule(Prediction(log_p), diffusion, x_t, 0.25, 0.5)

    recorder, out = recorded(work, logits, x_t)
    assert not recorder.reads, recorder.report()
    assert not recorder.copies, recorder.report()
    torch.testing.assert_close(out, work(logits, x_t))


@pytest.mark.parametrize("name", PROCESSES)
def test_noise_at_times_of_the_device_waits_for_nothing(name):
    diffusion = Diffusion(PROCESSES[name])
    x_0, t = torch.randint(0, 300, (3, 4)), torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)

    def work(x_0, t):
        kernel = diffusion.kernel(torch.zeros_like(t), t)
        return torch.stack([kernel.rows(x_0), kernel.columns(x_0), kernel.vecmat(kernel.rows(x_0))])

    recorder, out = recorded(work, x_0, t)
    assert not recorder.reads and not recorder.copies, recorder.report()
    torch.testing.assert_close(out, work(x_0, t))


@pytest.mark.parametrize("name", PROCESSES)
def test_a_sample_waits_as_often_whatever_its_number_of_steps(name):
    diffusion, model = Diffusion(PROCESSES[name]), build(vocab_size=300, mask_token_id=7)
    counts = {}
    for steps in (2, 5):

        def work(canvas, steps=steps):
            with torch.no_grad():
                reading = "subs" if diffusion.reveals else "conditional"
                denoiser = as_denoiser(model, diffusion, reading)
                return Ancestral().sample(denoiser, Canvas.empty((2, 8), canvas.device), steps)

        recorder = RecordingDevice()
        with recorder:
            model.to(recorder.device)
            canvas = torch.zeros(2, 8, device=recorder.device)
            work(canvas)
            recorder.clear()
            work(canvas)
        counts[steps] = recorder.reads.total(), recorder.copies.total()
    assert counts[2] == counts[5] and max(counts[5]) <= 5, recorder.report()


def test_a_draw_of_noise_asks_once_whether_it_was_one():
    diffusion = Diffusion(Uniform(300))
    recorder, _ = recorded(lambda x_0: diffusion.corrupt(x_0, 0.5), torch.zeros(2, 4).long())
    assert recorder.reads.total() == 1 and not recorder.copies, recorder.report()
