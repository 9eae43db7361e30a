"""What every schedule promises: noise that grows, its derivative, its inverse."""

from __future__ import annotations

import json
import math

import pytest
import torch

from hf_ddistill import Absorbing, Diffusion
from hf_ddistill.parameterizations import Prediction
from hf_ddistill.samplers import Ancestral
from hf_ddistill.schedules import (
    Cosine,
    Geometric,
    Linear,
    LogLinear,
    PiecewiseLinear,
    Polynomial,
    Schedule,
)

OTHERS = [
    LogLinear(eps=0.2),
    Linear(1e-3, 7.0),
    Cosine(power=2),
    Geometric(1e-3, 1.0),
    Polynomial(0.5, 0.1),
    PiecewiseLinear([1.0, 0.9, 0.3, 0.2]),
]
SCHEDULES = [Schedule.from_config(name) for name in Schedule.registry] + OTHERS
each_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)


@each_schedule
def test_noise_grows_from_almost_none(schedule):
    sigma = schedule.sigma(torch.linspace(0, 1, 101, dtype=torch.float64))
    assert (sigma.diff() > 0).all()
    assert 0 <= sigma[0] <= 1e-3
    assert sigma.dtype == torch.float64


@each_schedule
def test_rate_is_the_derivative_of_the_noise(schedule):
    t = torch.linspace(0.01, 0.99, 99, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(schedule.sigma(t).sum(), t)
    torch.testing.assert_close(schedule.rate(t), slope, rtol=1e-10, atol=0)


@each_schedule
def test_inverse_gives_back_the_time(schedule):
    t = torch.linspace(0.01, 1, 100, dtype=torch.float64)
    torch.testing.assert_close(schedule.inverse(schedule.sigma(t)), t, rtol=0, atol=1e-9)


@each_schedule
def test_alpha_is_what_is_left(schedule):
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    torch.testing.assert_close(schedule.alpha(t), (-schedule.sigma(t)).exp())


@each_schedule
def test_float32_times_are_not_computed_in_float32(schedule):
    t = torch.linspace(0.1, 0.9, 9)
    for of in (schedule.sigma, schedule.rate, schedule.inverse):
        assert torch.equal(of(t), of(t.double()))


@each_schedule
def test_json_keeps_the_schedule(schedule):
    again = Schedule.from_config(json.loads(json.dumps(schedule.to_config())))
    assert again == schedule and hash(again) == hash(schedule)


@pytest.mark.parametrize(
    ("schedule", "alpha"),
    [
        (LogLinear(1e-3), lambda t: 1 - 0.999 * t),
        (Linear(0.0, 3.0), lambda t: math.exp(-3 * t)),
        (Cosine(1e-3), lambda t: 1e-3 + 0.999 * math.cos(math.pi * t / 2)),
        (Cosine(1e-3, 2), lambda t: 1e-3 + 0.999 * math.cos(math.pi * t / 2) ** 2),
        (Geometric(1e-2, 1.0), lambda t: math.exp(-(0.01 ** (1 - t)))),
        (Polynomial(3.0, 1e-3), lambda t: 1 - 0.999 * (1 - (1 - t) ** 3)),
        (PiecewiseLinear([1.0, 0.4, 0.1]), lambda t: 1 - 1.2 * t if t < 0.5 else 0.7 - 0.6 * t),
    ],
    ids=lambda value: None if callable(value) else repr(value),  # a function's has its address
)
def test_alpha_is_the_published_form(schedule, alpha):
    for t in (0.0, 0.3, 0.9, 1.0):
        assert float(schedule.alpha(torch.tensor(t).double())) == pytest.approx(
            alpha(float(torch.tensor(t))), abs=1e-12
        )


def test_polynomial_of_power_one_is_log_linear():
    t = torch.linspace(0, 1, 21, dtype=torch.float64)
    torch.testing.assert_close(Polynomial(1.0).sigma(t), LogLinear().sigma(t))
    torch.testing.assert_close(Polynomial(1.0).rate(t), LogLinear().rate(t))


def test_the_law_of_a_masked_step_is_differentiable_in_the_shares_that_it_reveals():
    values = torch.tensor([1.0, 0.4, 1e-3], dtype=torch.float64, requires_grad=True)
    diffusion = Diffusion(Absorbing(3), PiecewiseLinear(values))
    log_p = torch.tensor([0.3, 0.7, 0.0], dtype=torch.float64).log()
    probs = Ancestral().rule(
        Prediction(log_p.expand(1, 1, 3)), diffusion, torch.tensor([[2]]), 0.5, 1.0
    )
    (slope,) = torch.autograd.grad(probs[0, 0, 2], values)
    # (1 - alpha_s) / (1 - alpha_t) stays masked.
    assert probs[0, 0, 2].item() == pytest.approx(0.6 / 0.999)
    assert slope.tolist() == pytest.approx([0.0, -1 / 0.999, 0.6 / 0.999**2])


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: LogLinear(0.0), "strictly between 0.0 and 1.0, got 0.0"),
        (lambda: Cosine(1.0), "strictly between"),
        (lambda: Cosine(power=3), "1 .cosine. or 2 .cosine squared., got 3"),
        (lambda: Polynomial(power=0.0), "above 0, got 0.0"),
        (lambda: Polynomial(eps=-1.0), "strictly between"),
        (lambda: Geometric(0.0, 1.0), "above 0 and below sigma_max=1.0"),
        (lambda: Linear(2.0, 1.0), "sigma_min=2.0"),
        (lambda: Linear(-1.0, 1.0), "at least 0"),
        (lambda: PiecewiseLinear([1.0]), "at least two falling values in .0, 1., got .1.0.;"),
        (lambda: PiecewiseLinear([1.0, 0.5, 0.5]), "got .1.0, 0.5, 0.5."),
        (lambda: PiecewiseLinear([1.0, 0.0]), "at least two falling"),
        (lambda: PiecewiseLinear([1.0, 1e-310]), "the last is at least 1e-300"),
        (lambda: LogLinear(1e-17), "eps=1e-17 is too small: 1 - eps is 1 in float64"),
        (lambda: Polynomial(power=math.inf), "a finite number above 0, got inf"),
        (lambda: Linear(0.0, math.inf), "sigma_max=inf .* it goes up to 691"),
        (lambda: Geometric(1e-3, 2000.0), "sigma_max=2000.0 leaves exp.-sigma_max. of the data"),
    ],
)
def test_settings_without_a_schedule_are_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_what_is_left_at_the_end_is_what_was_asked_for():
    """It came out as 0, and sigma as infinite, where 1 - (1 - alpha) lost it."""
    end = torch.ones((), dtype=torch.float64)
    for schedule in (PiecewiseLinear([1.0, 1e-40]), Polynomial(2.0, 1e-40)):
        assert float(schedule.alpha(end)) == pytest.approx(1e-40)


def test_values_that_differ_only_in_float64_fall():
    schedule = PiecewiseLinear([1.0, 0.5 + 1e-12, 0.5])
    assert float(schedule.rate(torch.tensor(0.9).double())) == pytest.approx(4e-12, rel=1e-3)


def test_unknown_schedule_lists_those_that_exist():
    with pytest.raises(ValueError, match="did you mean 'log_linear'") as error:
        Schedule.from_config("loglinear")
    assert all(name in str(error.value) for name in Schedule.registry)
    with pytest.raises(ValueError, match="no setting 'epsilon'; it has: eps"):
        Schedule.from_config({"type": "log_linear", "epsilon": 0.1})
    with pytest.raises(ValueError, match="with a 'type', got 7"):
        Schedule.from_config(7)
