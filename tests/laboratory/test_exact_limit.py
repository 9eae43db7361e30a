"""The limit of factorised samplers, and what it is measured against: matched teacher substeps."""

from __future__ import annotations

import pytest
import torch
from enumeration import digits as enumerated_digits
from enumeration import tabular, transition
from exact_bayes import total_variation as distance
from slow_cases import mostly_slow

from hf_ddistill.cli import kept_limits as exact_limits
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.laboratory import (
    ExactProblem,
    LimitSearch,
    kl_divergence,
    limit,
    terminal_law,
    total_variation,
)
from hf_ddistill.laboratory.problems import digits, parity
from hf_ddistill.processes import Absorbing, Hybrid, Uniform
from hf_ddistill.samplers import Ancestral, step_grid
from hf_ddistill.schedules import LogLinear
from hf_ddistill.shapes import LOG_ZERO

STRAIGHT = LogLinear(1e-9)
QUICK = LimitSearch(scales=(0.1,), adam_steps=100, lbfgs_steps=60)


def under(law, process):
    return ExactProblem(law.law, law.sequences, Diffusion(process, STRAIGHT))


def teacher_law(problem, nfe):
    return terminal_law(problem.denoiser(), problem, problem.length, step_grid(nfe))


@pytest.mark.parametrize(
    ("process", "nfe", "bound"),
    mostly_slow(
        [(Absorbing(3), 2, 0.004), (Uniform(2), 1, 0.001), (Uniform(2), 2, 0.0005)],
        lambda process, nfe, bound: nfe == 1,
    ),
    ids=lambda value: getattr(value, "id", value),
)
def test_the_limit_is_far_below_the_teacher(process, nfe, bound):
    problem = under(digits(), process)
    found = limit(problem, nfe, QUICK)
    assert total_variation(problem.law, found.law) < bound
    assert total_variation(problem.law, teacher_law(problem, nfe)) > 0.2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("process", "nfe", "known"),
    [(Absorbing(3), 2, 2e-4), (Absorbing(3), 4, 0), (Uniform(2), 1, 2e-4), (Uniform(2), 2, 0)],
    ids=lambda value: getattr(value, "id", value),
)
def test_the_default_search_reaches_the_published_limits(process, nfe, known):
    """About a minute in all. Where a search ends hangs on rounding: .0002 and .0004 were seen."""
    problem = under(digits(), process)
    assert total_variation(problem.law, limit(problem, nfe).law) < known + 3e-4


def test_one_call_on_masks_is_no_better_than_the_teacher():
    """A single product law: the marginals are the best in KL, and the teacher has them."""
    problem = under(digits(), Absorbing(3))
    found = limit(problem, 1, QUICK)
    assert found.logits.shape == (1, 6, 2), "only the state of masks can be met"
    assert found.law == pytest.approx(teacher_law(problem, 1), abs=1e-6)


def test_a_search_that_finds_nothing_returns_the_teacher():
    problem = under(parity(4), Hybrid(3))
    found = limit(problem, 3, LimitSearch(scales=(5.0,), adam_steps=0, lbfgs_steps=0))
    assert found.law == pytest.approx(teacher_law(problem, 3), abs=1e-4)


@pytest.mark.slow
def test_the_denoiser_of_the_limit_has_its_law():
    problem = under(parity(4), Hybrid(3))
    found = limit(problem, 2, QUICK)
    law = terminal_law(found.denoiser, problem, 4, step_grid(2))
    assert law == pytest.approx(found.law)
    assert kl_divergence(problem.law, law) < 0.5 * kl_divergence(
        problem.law, teacher_law(problem, 2)
    )


@pytest.mark.slow
def test_parity_is_a_saddle_that_only_large_noise_leaves():
    """From uniform noise one step can map every start to a string of even parity."""
    problem = under(parity(6), Uniform(2))
    at = {
        scale: total_variation(problem.law, limit(problem, 1, LimitSearch((scale,), 150, 40)).law)
        for scale in (0.01, 3.0)
    }
    assert at[0.01] > 0.45 and at[3.0] < 0.2


def test_a_limit_is_looked_for_once(tmp_path, monkeypatch):
    problem, looked = under(parity(3), Uniform(2)), []
    search = LimitSearch((1.0,), 20, 0)
    find = exact_limits.limit

    def counting(*arguments):
        looked.append(arguments[1])
        return find(*arguments)

    monkeypatch.setattr(exact_limits, "limit", counting)
    laws = [exact_limits.cached_limit(problem, 1, search, folder=tmp_path).law for _ in range(2)]
    assert looked == [1] and torch.equal(*laws)
    exact_limits.cached_limit(problem, 2, search, folder=tmp_path)
    exact_limits.cached_limit(problem, 1, LimitSearch((2.0,), 20, 0), folder=tmp_path)
    other = under(parity(3), Absorbing(3))
    exact_limits.cached_limit(other, 1, search, folder=tmp_path)
    half = ExactProblem((problem.law + 1 / 8) / 2, problem.sequences, problem.diffusion)
    exact_limits.cached_limit(half, 1, search, folder=tmp_path)
    assert looked == [1, 2, 1, 1, 1], "another question was answered from the cache"
    shuffled = ExactProblem(problem.law.flip(0), problem.sequences.flip(0), problem.diffusion)
    law = exact_limits.cached_limit(shuffled, 1, search, folder=tmp_path).law
    assert len(looked) == 5 and torch.equal(law.flip(0), laws[0])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"scales": ()}, "one or more"),
        ({"scales": (-1.0,)}, "at least 0"),
        ({"adam_steps": -1}, "at least 0"),
    ],
)
def test_a_search_of_nothing_is_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        LimitSearch(**settings)


def matched_substeps(problem, s, t, substeps):
    """q(x_t) = E[p(x_0 | x_s)] with x_s by that many ancestral steps of the teacher."""
    grid = [t - (t - s) * i / substeps for i in range(substeps)] + [s]
    law = torch.eye(len(problem.states), dtype=torch.float64)
    for now, then in zip(grid[:-1], grid[1:], strict=True):
        teacher = tabular(problem, problem.conditional(now).log().clamp_min(LOG_ZERO))
        prediction = teacher(problem.states, now)
        step = Ancestral().rule(prediction, problem.diffusion, problem.states, then, now)
        law = law @ transition(problem, step)
    return law @ problem.conditional(max(s, 1e-6)).flatten(1)


@torch.no_grad()
@pytest.mark.parametrize("substeps", [2, 8])
@pytest.mark.parametrize(
    ("process", "nfe", "least", "most"),
    [(Absorbing(3), 2, 0.2217, 0.2219), (Uniform(2), 2, 0.287, 0.290)],
    ids=lambda value: getattr(value, "id", value),
)
def test_matched_teacher_substeps_stay_on_the_teachers_curve(process, nfe, least, most, substeps):
    """Progressive distillation per token (SDTT's target), at its exact optimum."""
    problem, grid = enumerated_digits(Diffusion(process, STRAIGHT)), step_grid(nfe)
    law = process.limit()[problem.states].prod(-1)
    for t, s in zip(grid[:-1], grid[1:], strict=True):
        q = matched_substeps(problem, s, t, substeps).view(len(problem.states), 6, -1)
        student = tabular(problem, q.log().clamp_min(LOG_ZERO))
        step = Ancestral().rule(student(problem.states, t), problem.diffusion, problem.states, s, t)
        law = law @ transition(problem, step)
    assert least - 5e-5 < distance(law, problem.data) < most + 5e-5
