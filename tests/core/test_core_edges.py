"""The ends of the core, t = 0 and t = 1, and corners in which a silent number stood."""

from __future__ import annotations

import math

import pytest
import torch
from core_cases import PROCESSES, SCHEDULES

from hf_ddistill.diffusion import Diffusion
from hf_ddistill.divergences import Divergence, ForwardKL
from hf_ddistill.processes import Hybrid, Uniform
from hf_ddistill.schedules import Cosine

each_process = pytest.mark.parametrize("name", PROCESSES)
each_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)


@each_process
@each_schedule
def test_the_reverse_rate_is_a_rate_or_refused_at_both_ends(name, schedule):
    process = PROCESSES[name]
    diffusion, x_t = Diffusion(process, schedule), torch.arange(process.vocab_size)[None]
    score = torch.rand(1, process.vocab_size, process.vocab_size, dtype=torch.float64) + 0.1
    for t in (0.0, 1.0):
        infinite = not schedule.rate(torch.tensor(t)).isfinite()
        if type(process) is Hybrid and not process.constant and process.uniform and t == 0:
            infinite = True
        if infinite:
            with pytest.raises(ValueError, match="infinitely fast"):
                diffusion.reverse_rate(score, x_t, t)
            continue
        rate = diffusion.reverse_rate(score, x_t, t)
        off = rate.scatter(-1, x_t[..., None], 0.0)
        assert rate.isfinite().all() and off.min() >= 0
        assert rate.sum(-1).abs().max() <= 1e-9 * (1 + rate.abs().max())


def test_the_rate_of_hybrid_grows_without_bound_towards_the_data():
    """Why it is refused at 0: it is what the difference quotient of its kernel tends to."""
    process, zero = Hybrid(4, uniform=0.3), torch.zeros((), dtype=torch.float64)
    speeds = []
    for sigma in (1e-4, 1e-6, 1e-8):
        sigma = torch.tensor(sigma, dtype=torch.float64)
        speeds.append(float((1 - process.kernel(zero, sigma).dense()[0, 0]) / sigma))
        assert float(-process.rate(sigma).dense()[0, 0]) == pytest.approx(speeds[-1] / 2, rel=0.05)
    assert speeds[1] / speeds[0] == pytest.approx(10, rel=0.05)
    assert speeds[2] / speeds[1] == pytest.approx(10, rel=0.05)


@each_schedule
def test_a_schedule_is_finite_at_its_ends_and_its_inverse_stays_between_them(schedule):
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    sigma = schedule.sigma(ends)
    assert sigma.isfinite().all() and (1 / schedule.alpha(ends)).isfinite().all()
    rate = schedule.rate(ends)
    assert not rate.isnan().any() and (rate >= 0).all() and rate[0].isfinite()
    beyond = torch.tensor([0.0, float(sigma[0]), float(sigma[1]), 1e4], dtype=torch.float64)
    found = schedule.inverse(beyond)
    torch.testing.assert_close(found, ends[[0, 0, 1, 1]], rtol=0, atol=2e-7)
    assert 0 <= found.min() and found.max() <= 1


@pytest.mark.parametrize("schedule", [Cosine(), Cosine(power=2), Cosine(1e-12)], ids=repr)
def test_noise_is_not_lost_to_rounding_right_after_the_data(schedule):
    """1 - cos(t) is 0 in float64 for t < 1e-8, where the rate is not."""
    t = torch.tensor([1e-12, 1e-9, 1e-6, 1e-3], dtype=torch.float64)
    halves = schedule.power * (1 - schedule.eps) * (math.pi * t / 2) ** 2 / 2
    torch.testing.assert_close(schedule.sigma(t), halves, rtol=1e-5, atol=0)


@pytest.mark.parametrize("size", [2, 5, 300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_divergences_are_finite_and_0_only_between_equal_laws_at_certainty(size, dtype):
    p = torch.full((1, size), -1e6, dtype=dtype)
    p[0, 0] = 0
    q = p.flip(-1)
    for divergence in (Divergence.from_config(name) for name in Divergence.registry):
        same, apart = divergence(p, p), divergence(p, q)
        assert same.isfinite().all() and apart.isfinite().all(), divergence
        assert float(same) == pytest.approx(0, abs=1e-5), divergence
        assert float(apart) > 0.5, divergence


@pytest.mark.parametrize("k", [0, -3])
def test_no_tokens_compared_is_no_agreement(k):
    """Of all tokens together every two laws agree: a loss of 0 that trained nothing."""
    log_p, log_q = torch.randn(2, 3, 5).log_softmax(-1)
    with pytest.raises(ValueError, match=f"must be at least 1, got {k}"):
        ForwardKL().top_k(log_p, log_q, k)


@pytest.mark.parametrize("process", [Uniform(3), Hybrid(4, uniform=0.3)], ids=lambda p: p.id)
def test_kernels_compose_where_almost_nothing_is_left_of_the_data(process):
    """a_t / a_s of two shares that are 0 in float64 was NaN under Hybrid."""
    s, t = torch.tensor([900.0, 901.5], dtype=torch.float64)
    if process.id == "uniform":
        s, t = s / 2, t / 2
    kernel = process.kernel(s, t).dense()
    assert kernel.isfinite().all()
    torch.testing.assert_close(kernel.sum(-1), torch.ones(len(kernel), dtype=torch.float64))
