"""Every sampler under every process and schedule: tokens, or one sentence when it is made.

A row's tokens hang on its own generator alone, and a batch may have no rows.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from core_cases import PROCESSES, SCHEDULES, WAYS, random_rate
from slow_cases import mostly_slow

from hf_ddistill.denoisers import Latent, NetworkDenoiser
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.linalg import uniform_noise
from hf_ddistill.parameterizations import Conditional, Prediction
from hf_ddistill.processes import General, Uniform
from hf_ddistill.samplers import Analytic, Ancestral, Canvas, Euler, Sampler, TauLeaping
from hf_ddistill.schedulers import (
    CTMCEulerScheduler,
    DiscreteSchedulerBase,
    TauLeapingScheduler,
)
from hf_ddistill.schedules import Geometric, LogLinear, PiecewiseLinear, Polynomial, Schedule

SCHEDULERS = DiscreteSchedulerBase.__subclasses__()
SAMPLERS = [kind() for kind in Sampler.registry.values() if kind().is_product]
#: Those of `PROCESSES` whose ends are the most delicate; the slow suite has all.
DELICATE = (*WAYS, "hybrid, constant", "general, absorbing", "general, knots", "kronecker, masks")
each_process = pytest.mark.parametrize("name", PROCESSES)
each_sampler = pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: sampler.id)
each_scheduler = pytest.mark.parametrize("cls", SCHEDULERS, ids=lambda cls: cls.__name__)


def accepts(sampler, diffusion):
    """Whether it is defined under this diffusion."""
    try:
        sampler.check(diffusion)
    except ValueError:
        return False
    return True


def seeded(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def peaked(vocab_size):
    """A network whose every position hangs on its own row alone, sure of its tokens: logits of up
    to 100."""

    def network(x_t, t, noise=None):
        phase = (x_t + 1).cumsum(-1)[..., None] * (torch.arange(vocab_size) + 1.3)
        shift = 0 if noise is None else noise.sum(-1, keepdim=True)
        return 30 * torch.tan(torch.sin(phase + 7 * t[:, None, None] + shift)).double()

    return network


def check_every_process(cls, schedule, numbers_of_steps, names=tuple(PROCESSES)):
    """The first step, from t = 1, is where rates are infinite and kernels singular."""
    if cls in (CTMCEulerScheduler, TauLeapingScheduler) and schedule == Polynomial(0.5):
        for process in PROCESSES.values():
            with pytest.raises(ValueError, match="infinite at t = 1 under Polynomial.power=0.5"):
                cls(**Diffusion(process, schedule).to_config())
        return
    for name in names:
        process = PROCESSES[name]
        diffusion = Diffusion(process, schedule)
        network, scheduler = peaked(process.vocab_size), cls(**diffusion.to_config())
        for steps in numbers_of_steps:
            scheduler.set_timesteps(steps)
            x = diffusion.prior((2, 3), torch.Generator().manual_seed(steps))
            for t in scheduler.timesteps:
                output = scheduler.step(network(x, t.expand(2)), t, x, generator=seeded(0, 1))
                x, probs = output.prev_sample, output.sampled_probs
                assert probs.isfinite().all() and (probs > 0).all(), name
                assert (probs < 1 + 1e-9).all(), name
            assert 0 <= x.min() and x.max() < process.vocab_size, name
            assert not set(process.noise_tokens) & set(x.flatten().tolist()), name


@each_scheduler
@pytest.mark.parametrize(
    "schedule",
    [LogLinear(), Geometric(), Polynomial(0.5), PiecewiseLinear((0.9, 0.5, 1e-300))],
    ids=repr,
)
def test_every_sampler_draws_tokens_or_is_refused_when_it_is_made(cls, schedule):
    check_every_process(cls, schedule, (2,), DELICATE)


@pytest.mark.slow
@each_scheduler
@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_every_sampler_draws_tokens_under_every_schedule(cls, schedule):
    check_every_process(cls, schedule, (1, 2, 4))


def test_the_registry_has_no_schedule_that_is_not_tried():
    assert {type(schedule) for schedule in SCHEDULES} == set(Schedule.registry.values())


@pytest.mark.parametrize("sampler", [Euler(), TauLeaping()], ids=lambda sampler: sampler.id)
def test_a_step_at_an_infinite_rate_is_refused_and_not_nan(sampler):
    diffusion = Diffusion(Uniform(4), Polynomial(0.5))
    denoiser = NetworkDenoiser(peaked(4), diffusion, Conditional())
    with pytest.raises(ValueError, match="'(euler|tau_leaping)' steps take the rate of the noise"):
        sampler.sample(denoiser, Canvas.empty((1, 2)), 2)
    x = torch.zeros(1, 2, dtype=torch.int64)
    with pytest.raises(ValueError, match="infinitely fast at t = 1 under Polynomial.power=0.5"):
        sampler.rule(denoiser(x, 1.0), diffusion, x, 0.5, 1.0)
    assert sampler.rule(denoiser(x, 0.9), diffusion, x, 0.5, 0.9).isfinite().all()
    assert Ancestral().sample(denoiser, Canvas.empty((1, 2)), 2).max() < 4


@each_process
def test_the_analytic_step_is_the_inverse_kernel_applied_to_the_score(name):
    """Theorem 4.2 by dense matrices, at early times at which all can be inverted; at t = 1 many
    cannot be, and the step is still a law."""
    diffusion, t = Diffusion(PROCESSES[name]), 0.06
    x_t = torch.arange(diffusion.vocab_size)[None]
    denoiser = NetworkDenoiser(
        lambda x, t: peaked(diffusion.vocab_size)(x, t) / 30, diffusion, Conditional()
    )
    reached = diffusion.kernel(0.0, t).columns(x_t).clamp_min(0)
    prior = denoiser(x_t, t).log_conditional.exp() * reached + 1e-12 * (reached > 0)
    prior[..., list(diffusion.process.noise_tokens)] = 0
    prediction = Prediction((prior / prior.sum(-1, keepdim=True)).log().clamp_min(-1e6))
    kernel = diffusion.kernel(0.05, t).dense()
    score = prediction.score(diffusion, x_t, t)
    expected = (score @ torch.linalg.inv(kernel)) * kernel.mT[x_t]
    step = Analytic().rule(prediction, diffusion, x_t, 0.05, t)
    # Between knots P_0t is P_0s P_st within the bound alone.
    atol = 1e-9 + getattr(diffusion.process, "error_bound", 0.0)
    expected = expected / expected.sum(-1, keepdim=True)
    torch.testing.assert_close(step, expected, rtol=0, atol=atol)
    late = Analytic().rule(prediction, diffusion, x_t, 0.5, 1.0)
    torch.testing.assert_close(late.sum(-1), torch.ones(x_t.shape, dtype=torch.float64))


@pytest.mark.parametrize(
    ("name", "sampler"),
    mostly_slow(
        itertools.product(PROCESSES, SAMPLERS),
        lambda name, sampler: name in WAYS or sampler.id in ("ancestral", "euler"),
    ),
    ids=lambda value: getattr(value, "id", value),
)
def test_a_row_alone_is_that_row_in_any_batch(name, sampler):
    """Prior, noise, steps and whole sampling, with a noise input: its generator alone matters."""
    diffusion = Diffusion(PROCESSES[name])
    if not accepts(sampler, diffusion):
        return
    denoiser = NetworkDenoiser(
        peaked(diffusion.vocab_size), diffusion, Conditional(), latent=Latent(2)
    )

    def draws(seeds):
        shape, given = (len(seeds), 3), seeded(*seeds)
        prior = diffusion.prior(shape, given)
        times = torch.tensor([0.2 + seed / 10 for seed in seeds], dtype=torch.float64)
        x_0 = torch.tensor([[seed % 2] * 3 for seed in seeds])
        noised = diffusion.corrupt(x_0, times, given)
        again = diffusion.renoise(noised, times, times + 0.1, given)
        whole = sampler.sample(denoiser, Canvas.empty(shape), 3, given)
        return torch.stack([prior, noised, again, whole], 1)

    together, other = draws((0, 1, 2, 3, 4)), draws((4, 2, 7))
    for seed in (0, 2, 4):
        assert torch.equal(draws((seed,))[0], together[seed])
    assert torch.equal(other[:2], together[[4, 2]])


@each_process
def test_no_rows_and_no_positions_are_a_batch_too(name):
    diffusion = Diffusion(PROCESSES[name])
    size = diffusion.vocab_size
    for rows, length in ((0, 3), (2, 0), (0, 0)):
        generators = seeded(*range(rows))
        x = diffusion.prior((rows, length), generators)
        t = torch.full((rows,), 0.4, dtype=torch.float64)
        assert x.shape == diffusion.corrupt(x, t, generators).shape == (rows, length)
        prediction = Prediction(torch.zeros(rows, length, size).log_softmax(-1))
        score = prediction.score(diffusion, x, t)
        found = Prediction.from_score(score, diffusion, x, t).log_conditional
        assert score.shape == found.shape == (rows, length, size)
        for sampler in SAMPLERS:
            if not accepts(sampler, diffusion):
                continue
            step = sampler.rule(prediction, diffusion, x, 0.5 * t, t)
            assert step.shape == (rows, length, size)
    assert uniform_noise((0, 3), []).shape == (0, 3)


def test_every_rule_gives_a_law_under_a_kernel_of_cancelling_modes():
    for process in (PROCESSES["ordinal, 16 levels"], General(random_rate(2, 9))):
        diffusion = Diffusion(process, Geometric())
        x_t = torch.arange(process.vocab_size)[None]
        denoiser = NetworkDenoiser(peaked(process.vocab_size), diffusion, Conditional())
        for s in (1e-3, 0.2, 0.5):
            for sampler in SAMPLERS:
                if not accepts(sampler, diffusion):
                    continue
                step = sampler.rule(denoiser(x_t, 0.6), diffusion, x_t, s, 0.6)
                assert step.min() >= 0, sampler
                torch.testing.assert_close(step.sum(-1), torch.ones(1, x_t.shape[1]).double())
