"""Grids by what their steps lose, against enumeration."""

from __future__ import annotations

import itertools

import pytest
import torch
from exact_bayes import ExactBayes

from hf_ddistill.diagnosis.step_times import StepCosts, step_costs
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.processes import Absorbing, Uniform
from hf_ddistill.samplers import Ancestral
from hf_ddistill.schedules import Cosine, LogLinear


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def data(problem, count):
    rows = torch.multinomial(problem.law, count, replacement=True, generator=seeded(3))
    return problem.clean[rows]


def lost(problem, t, s):
    """E KL(p(x_s | x_t) || the product that an ancestral step draws), by enumeration."""
    whole = problem.posterior(s, t)
    times = (torch.tensor([each], dtype=torch.float64) for each in (t, s))
    product = problem.transitions(problem.denoiser(), *times, Ancestral())[0]
    log = torch.xlogy(whole, whole) - torch.xlogy(whole, product.clamp_min(1e-300))
    return float(problem.marginal(t) @ log.sum(-1))


def test_under_masking_the_cost_is_what_an_ancestral_step_loses():
    problem = ExactBayes.random(Diffusion(Absorbing(3), Cosine(1e-9)), 3)
    found = step_costs(problem.denoiser(), data(problem, 4000), 8, seeded())
    for i, j in ((0, 8), (0, 4), (2, 5), (4, 8)):
        expected = lost(problem, found.times[i], max(found.times[j], 1e-9))
        assert float(found.costs[i, j]) == pytest.approx(expected, rel=0.1, abs=2e-3)
    assert found.costs.triu(1).min() > -1e-6 and found.costs.tril().abs().max() == 0


def test_under_uniform_noise_the_cost_bounds_what_an_ancestral_step_loses():
    problem = ExactBayes.random(Diffusion(Uniform(2), LogLinear(1e-2)), 3)
    found = step_costs(problem.denoiser(), data(problem, 4000), 8, seeded())
    for i, j in ((0, 4), (2, 5), (4, 7)):
        expected = lost(problem, found.times[i], found.times[j])
        assert 0.95 * expected < float(found.costs[i, j]) < 3 * expected + 1e-3


def test_independent_positions_lose_nothing():
    for process in (Absorbing(3), Uniform(3)):
        problem = ExactBayes.independent(Diffusion(process), 2)
        found = step_costs(problem.denoiser(), data(problem, 50), 4, seeded())
        assert found.costs.abs().max() < 1e-9


@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_best_times_are_the_best_of_all_grids(n):
    times = tuple(1 - i / 6 for i in range(6)) + (0.0,)
    costs = torch.rand(7, 7, generator=seeded(1)).double().triu(1)
    found = StepCosts(times, costs)
    inner = itertools.combinations(times[1:-1], n - 1)
    best = min(inner, key=lambda between: found.of([1.0, *between, 0.0]))
    assert found.best_times(n) == [1.0, *best, 0.0]


def test_more_steps_than_times_and_no_intervals_are_refused():
    found = StepCosts((1.0, 0.5, 0.0), torch.zeros(3, 3))
    for n in (0, 3):
        with pytest.raises(ValueError, match=f"2 intervals hold 1 to 2 steps, got {n}"):
            found.best_times(n)
    problem = ExactBayes.random(Diffusion(Uniform(2)), 1)
    with pytest.raises(ValueError, match="at least one interval, got 0"):
        step_costs(problem.denoiser(), problem.clean, 0)
