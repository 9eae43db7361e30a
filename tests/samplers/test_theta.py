"""Samplers of two calls a step: their laws, their orders, and what they refuse."""

from __future__ import annotations

import math

import pytest
import torch
from exact_bayes import ExactBayes, total_variation
from two_calls import jumped_at_most_once, rk2, terminal_law, trapezoidal

from hf_ddistill.denoisers import NetworkDenoiser
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.laboratory import terminal_law as exact_law
from hf_ddistill.parameterizations import Conditional
from hf_ddistill.processes import Absorbing, Uniform
from hf_ddistill.samplers import Ancestral, Canvas, Euler, Sampler, ThetaRK2, ThetaTrapezoidal
from hf_ddistill.samplers.jumps import first_jump
from hf_ddistill.schedules import Cosine, Polynomial

MASKS, FLAT = Diffusion(Absorbing(3), Cosine(1e-9)), Diffusion(Uniform(2), Cosine(1e-3))
each_diffusion = pytest.mark.parametrize("diffusion", [MASKS, FLAT], ids=["absorbing", "uniform"])
TWO = {"trapezoidal": (trapezoidal, 0.5), "rk2": (rk2, 0.0)}


def slopes(problem, law_at, calls):
    """- d log TV / d log calls between neighbours, from the law of the exact reverse process."""
    prior = problem.diffusion.process.limit()[problem.states].prod(-1)
    exact = prior @ problem.posterior(0.0, 1.0)
    distances = [total_variation(law_at(n), exact) for n in calls]
    return [math.log2(a / b) for a, b in zip(distances, distances[1:], strict=False)], distances


@each_diffusion
def test_order_at_equal_calls_is_one_for_single_calls_and_two_for_trapezoidal(diffusion):
    """Against the product of matrices of the reverse process: trapezoidal by the sampler's own
    code, RK-2 by the sums that its code is compared with."""
    problem, calls, sampler = ExactBayes.random(diffusion, 3), (16, 32, 64), ThetaTrapezoidal()

    def second(n):
        law, grid = torch.zeros_like(problem.data), sampler.grid(n // 2, diffusion)
        law[problem.data > 0] = exact_law(problem.denoiser(), diffusion, 3, grid, sampler)
        return law

    found = {"trapezoidal": slopes(problem, second, calls)[0]}
    for one in (Ancestral(), Euler()):
        law = lambda n, sampler=one: problem.terminal_law(problem.denoiser(), n, sampler)  # noqa: E731
        found[one.id], _ = slopes(problem, law, calls)
    law = lambda n: terminal_law(problem, n // 2, rk2, 0.5, 0.0)  # noqa: E731
    found["rk2"], _ = slopes(problem, law, calls)
    for name in ("ancestral", "euler", "rk2"):
        assert found[name] == pytest.approx([1, 1], abs=0.06), name
    assert min(found["trapezoidal"]) > 1.7 and found["trapezoidal"][-1] > 1.85


def test_a_leap_that_refuses_two_jumps_loses_the_order_under_uniform_noise():
    def refusing(problem, s, t, theta):
        return trapezoidal(problem, s, t, theta, jumped_at_most_once)

    problem, calls = ExactBayes.random(FLAT, 3), (16, 32, 64)
    found, _ = slopes(problem, lambda n: terminal_law(problem, n // 2, refusing, 0.5, 0.5), calls)
    assert found == pytest.approx([1.1, 1.05], abs=0.1)


@each_diffusion
@pytest.mark.parametrize("sampler", [ThetaTrapezoidal(), ThetaRK2(), ThetaRK2(0.7)], ids=repr)
def test_what_is_drawn_is_the_sum_over_the_state_between_the_calls(diffusion, sampler):
    problem, n = ExactBayes.random(diffusion, 2), 3
    found = exact_law(problem.denoiser(), diffusion, 2, sampler.grid(n, diffusion), sampler)
    transition, tail = TWO["rk2" if isinstance(sampler, ThetaRK2) else "trapezoidal"]
    expected = terminal_law(problem, n, transition, sampler.theta, tail)[problem.data > 0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    other = terminal_law(problem, n, transition, 0.4, tail * 0.8)[problem.data > 0]
    assert (found - other).abs().max() > 1e-5


def test_a_position_makes_its_first_jump_and_no_other():
    jumps = torch.tensor([[[0.0, 0.3, 1.2], [0.0, 0.0, 0.0], [40.0, 0.0, 0.0]]]).double()
    law = first_jump(jumps, torch.tensor([[0, 1, 2]]))
    gone = 1 - math.exp(-1.5)
    expected = [[1 - gone, gone / 5, 0.8 * gone], [0, 1, 0], [1, 0, math.exp(-40)]]
    torch.testing.assert_close(law[0], torch.tensor(expected).double())


@pytest.mark.parametrize(
    ("kind", "theta"), [(ThetaTrapezoidal, 1.0), (ThetaTrapezoidal, 0.0), (ThetaRK2, 1.5)]
)
def test_a_second_call_outside_the_step_is_refused(kind, theta):
    with pytest.raises(ValueError, match=f"theta, the share of a step.*{theta}"):
        kind(theta)
    assert ThetaRK2(1.0).theta == 1


@pytest.mark.parametrize("kind", [ThetaTrapezoidal, ThetaRK2])
def test_a_rate_without_bound_is_refused_before_the_first_call(kind):
    diffusion = Diffusion(Uniform(3), Polynomial(0.5))
    denoiser = NetworkDenoiser(lambda x, t: torch.zeros(*x.shape, 3), diffusion, Conditional())
    with pytest.raises(ValueError, match="'theta_.*' steps take the rate.*infinite at t = 1"):
        kind().sample(denoiser, Canvas.empty((1, 2)), 2)


@pytest.mark.parametrize("theta", [0.3, 1.0])
def test_steps_of_any_length_at_any_theta_leave_tokens(theta):
    for diffusion in (MASKS, FLAT, Diffusion(Uniform(3), Cosine(1e-6))):
        problem = ExactBayes.random(diffusion, 2)
        sampler = Sampler.from_config({"type": "theta_rk2", "theta": theta})
        for steps in (1, 2, 5):
            x = sampler.sample(problem.denoiser(), Canvas.empty((50, 2)), steps)
            assert problem.data[problem.index(x)].min() > 0
