"""Samplers that are another one but for a part: its times, or its last step."""

from __future__ import annotations

import pytest
import torch
from exact_bayes import ExactBayes

from hf_ddistill.diffusion import Diffusion
from hf_ddistill.laboratory import terminal_law
from hf_ddistill.processes import Absorbing, Uniform
from hf_ddistill.samplers import (
    Ancestral,
    Canvas,
    GivenTimes,
    GreedyTail,
    Jump,
    Sampler,
    TauLeaping,
)
from hf_ddistill.schedules import LogLinear

L = 2
EACH = [Diffusion(Absorbing(4), LogLinear(1e-9)), Diffusion(Uniform(3), LogLinear(1e-3))]
each_diffusion = pytest.mark.parametrize("diffusion", EACH, ids=["absorbing", "uniform"])


def law(problem, sampler, n):
    grid = sampler.grid(n, problem.diffusion)
    return terminal_law(problem.denoiser(), problem.diffusion, L, grid, sampler)


def seeded(count):
    return [torch.Generator().manual_seed(seed) for seed in range(count)]


@each_diffusion
def test_given_times_are_the_grid_and_all_else_is_the_base_s(diffusion):
    times = [1.0, 0.6, 0.5, 0.1, 0.0]
    sampler = GivenTimes(times=torch.tensor(times, dtype=torch.float64))
    assert sampler.grid(4, diffusion) == times
    assert sampler.grid(2, diffusion) == [1.0, 0.5, 0.0]
    assert sampler.grid(8, diffusion)[:3] == pytest.approx([1.0, 0.8, 0.6])
    problem = ExactBayes.random(diffusion, L)
    found = terminal_law(problem.denoiser(), diffusion, L, times, Ancestral())
    torch.testing.assert_close(law(problem, sampler, 4), found, rtol=0, atol=1e-12)
    assert (law(problem, Ancestral(), 4) - found).abs().max() > 1e-3
    asked = []
    sampler.sample(problem.denoiser(), Canvas.empty((1, L)), 4, None, lambda r: asked.append(r.t))
    assert asked == times[:-1]


def test_without_times_the_grid_is_even():
    for n in (1, 3, 7):
        assert GivenTimes().grid(n, EACH[0]) == pytest.approx(Ancestral().grid(n, EACH[0]))


@pytest.mark.parametrize("times", [[1.0], [1.0, 0.5], [1.0, 0.5, 0.5, 0.0], [1.2, 0.0], [0.0, 1.0]])
def test_times_that_do_not_descend_to_the_data_are_refused(times):
    with pytest.raises(ValueError, match="descending from at most 1 to exactly 0, got"):
        GivenTimes(times=times)


@pytest.mark.parametrize("kind", [GivenTimes, GreedyTail])
@pytest.mark.parametrize("base", [TauLeaping(), Jump(), "theta_trapezoidal", "unmasking"], ids=str)
def test_what_a_base_is_its_wrapper_is(kind, base):
    base = Sampler.from_config(base)
    around = Sampler.from_config({"type": kind.id, "base": base.to_config()})
    assert around.base == base and around == kind(base)
    for name in ("is_product", "calls_once", "keeps_certain"):
        assert getattr(around, name) == getattr(base, name)
    sharp = around.sharpened(0.5, 3, 0.9)
    assert (sharp is None) == (base.sharpened(0.5, 3, 0.9) is None)
    assert sharp is None or sharp.base.temperature == 0.5
    denoiser = ExactBayes.random(EACH[0], L).denoiser()
    if kind is GivenTimes:
        alike = [
            each.sample(denoiser, Canvas.empty((9, L)), 3, seeded(9)) for each in (around, base)
        ]
        assert torch.equal(*alike)


def test_a_wrapper_is_refused_what_its_base_is_refused():
    problem = ExactBayes.random(EACH[1], L)
    for kind in (GivenTimes, GreedyTail):
        with pytest.raises(ValueError, match="'unmasking' decides masked positions for good"):
            kind("unmasking").sample(problem.denoiser(), Canvas.empty((1, L)), 2)
    with pytest.raises(ValueError, match="Unknown sampler 'ancestrol'"):
        GreedyTail("ancestrol")


@each_diffusion
def test_a_greedy_tail_is_the_base_s_law_with_the_likeliest_tokens_behind(diffusion):
    problem, n = ExactBayes.random(diffusion, L), 3
    grid = torch.tensor(Ancestral().grid(n, diffusion), dtype=torch.float64)
    steps = problem.transitions(problem.denoiser(), grid[:-2], grid[1:-1], Ancestral())
    at_last = diffusion.process.limit()[problem.states].prod(-1)
    for step in steps:
        at_last = at_last @ step
    likeliest = problem.conditional(grid[-2]).argmax(-1)
    expected = torch.zeros_like(at_last).index_add(0, problem.index(likeliest), at_last)
    found = law(problem, GreedyTail(), n)
    torch.testing.assert_close(found, expected[problem.data > 0], rtol=0, atol=1e-12)
    plain = law(problem, Ancestral(), n)
    entropies = [float(torch.special.entr(each).sum()) for each in (found, plain)]
    assert entropies[0] < entropies[1] - 0.05 or not diffusion.reveals
    x = GreedyTail().sample(problem.denoiser(), Canvas.empty((20_000, L)), n, seeded(1)[0])
    drawn = problem.index(x).bincount(minlength=len(expected)) / len(x)
    assert float((drawn - expected).abs().sum() / 2) < 0.015


def test_one_greedy_step_draws_the_same_everywhere():
    problem = ExactBayes.random(EACH[0], L)
    for base in ("ancestral", "theta_trapezoidal"):
        x = GreedyTail(base).sample(problem.denoiser(), Canvas.empty((50, L)), 1)
        assert len(x.unique(dim=0)) == 1
