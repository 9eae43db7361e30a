"""The laws of the states that training looks at: pairs against enumeration, times and weights."""

from __future__ import annotations

import pytest
import torch
from enumeration import (
    _At,
    forward_joint,
    oracle,
    predicted,
    stepped_joint,
    tabular,
    training_step,
    transition,
)
from exact_bayes import ExactBayes

from hf_ddistill.couplings import (
    AdaptiveTimes,
    Coupling,
    ForwardPair,
    GridTimes,
    Memory,
    StudentStep,
    TeacherSteps,
    TimeSampler,
    UniformTimes,
)
from hf_ddistill.couplings.times import EARLIEST
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.processes import Absorbing, Hybrid, Uniform
from hf_ddistill.samplers import Ancestral, Sampler

DRAWS, S, T = 20_000, 0.3, 0.7
RULES = [name for name, kind in Sampler.registry.items() if kind().is_product]
each = pytest.mark.parametrize("cls", [Absorbing, Uniform, Hybrid], ids=lambda cls: cls.id)


def small(cls, length=2):
    return ExactBayes.random(Diffusion(cls.example(3)), length, seed=2)


def drawn(coupling, problem, student):
    """How often each pair (x_t, x_s) is drawn, (K ** L, K ** L)."""
    step = training_step(problem, student, DRAWS)
    s, t, _ = _At(S, T).draw(step)
    x_t, past = coupling.draw(step, s, t)
    x_s = past(step.look(student, x_t, t))
    size = len(problem.states)
    pairs = problem.index(x_t) * size + problem.index(x_s)
    return torch.bincount(pairs, minlength=size * size).view(size, size)


def excess(counts, law):
    """How many standard deviations the chi-square of the counts lies above its mean."""
    assert law.sum() == pytest.approx(1)
    impossible = law < 1e-12
    assert counts[impossible].sum() == 0, "drawn, although its probability is 0"
    expected = law[~impossible] * counts.sum()
    freedom = len(expected) - 1
    square = float(((counts[~impossible] - expected) ** 2 / expected).sum())
    return (square - freedom) / (2 * freedom) ** 0.5


@each
def test_forward_pairs_have_the_true_joint_law(cls):
    problem = small(cls)
    counts = drawn(ForwardPair(), problem, tabular(problem))
    assert excess(counts, forward_joint(problem, S, T)) < 5
    assert excess(counts, forward_joint(problem, S + 0.05, T)) > 10, "the test sees no difference"


@each
@pytest.mark.parametrize("name", RULES)
def test_student_steps_follow_the_student_s_own_law(cls, name):
    problem = small(cls)
    student = tabular(problem)
    try:
        Sampler.named(name)().check(problem.diffusion)
    except ValueError:
        pytest.skip("the sampler is not defined for it")
    joint = stepped_joint(problem, student, Sampler.named(name)(), S, T).detach()
    assert excess(drawn(StudentStep(name), problem, student), joint) < 5


@each
def test_a_jump_masks_revealed_tokens_again_as_often_as_any_other(cls):
    """By Bayes on dense kernels: a whole x_0 is drawn, and all of it noised to s; under masks a
    token that x_t had revealed is masked again as often as any other."""
    problem = small(cls)
    student = tabular(problem)
    clean = transition(problem, predicted(problem, student, T))
    joint = (problem.marginal(T)[:, None] * (clean @ problem.kernel(0.0, S))).detach()
    counts = drawn(StudentStep("jump"), problem, student)
    assert excess(counts, joint) < 5
    if problem.diffusion.reveals:
        x_t, x_s = problem.states[:, None], problem.states[None]
        again = ((x_t != 2) & (x_s == 2)).double().mean(-1)
        kept = counts.double()[(problem.states != 2).all(-1)]
        masked = float((kept * again[(problem.states != 2).all(-1)]).sum() / kept.sum())
        assert masked == pytest.approx(float(problem.kernel(0.0, S)[0, -1]) ** 0.5, abs=0.02)


@each
def test_teacher_steps_are_the_composition_of_the_teacher_s_substeps(cls):
    problem = small(cls)
    teacher, middle = oracle(problem), (S + T) / 2
    first = stepped_joint(problem, teacher, Ancestral(), middle, T)
    now = torch.full((len(problem.states),), middle, dtype=torch.float64)
    prediction = teacher(problem.states, now)
    second = Ancestral().rule(prediction, problem.diffusion, problem.states, S, middle)
    joint = first @ transition(problem, second)
    student = tabular(problem)
    assert excess(drawn(TeacherSteps(2), problem, student), joint) < 5


@pytest.mark.parametrize("name", Coupling.registry)
def test_draws_are_the_generator_s_and_padding_is_no_matter_of_theirs(name):
    problem = small(Absorbing if name == "masked_duality" else Uniform)
    student, coupling = tabular(problem), Coupling.named(name)()
    pairs = []
    for _ in range(2):
        step = training_step(problem, student, rows=50, seed=3)
        x_t, past = coupling.draw(step, *_At(S, T).draw(step)[:2])
        pairs.append(torch.stack([x_t, past(step.look(student, x_t, torch.full((50,), T)))]))
        torch.rand(5)
    assert torch.equal(*pairs)


# ---------------------------------------------------------------------------- times


def samplers():
    return [UniformTimes(), GridTimes(), AdaptiveTimes(), AdaptiveTimes(grid=True)]


@pytest.mark.parametrize("sampler", samplers(), ids=str)
@pytest.mark.parametrize("steps", [1, 3, 8])
def test_times_stay_inside_and_s_before_t(sampler, steps):
    problem = small(Uniform)
    step = training_step(problem, tabular(problem), DRAWS, student_steps=steps)
    s, t, weight = sampler.draw(step)
    assert s.dtype == t.dtype == torch.float64
    assert (s >= EARLIEST / 2).all() and (s < t).all() and (t >= EARLIEST).all() and (t <= 1).all()
    assert weight.mean() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("sampler", [GridTimes(), AdaptiveTimes(grid=True)], ids=str)
@pytest.mark.parametrize("steps", [1, 3, 7])
def test_grid_times_sit_on_the_student_s_grid_and_s_within_the_step(sampler, steps):
    problem = small(Uniform)
    s, t, _ = sampler.draw(training_step(problem, tabular(problem), DRAWS, student_steps=steps))
    number = (t * steps).round()
    assert (t - number / steps).abs().max() < 1e-12
    assert set(number.tolist()) == set(range(1, steps + 1))
    assert torch.bincount(number.long())[1:].double().std(unbiased=False) <= 0.01 * DRAWS
    assert ((t - s) <= 1 / steps + 1e-12).all()


def test_uniform_times_are_uniform():
    problem = small(Uniform)
    s, t, _ = UniformTimes().draw(training_step(problem, tabular(problem), DRAWS))
    grid = (torch.arange(DRAWS) + 0.5) / DRAWS
    assert (t.sort().values - grid).abs().max() < 2 / DRAWS + EARLIEST, "t is not stratified"
    share, later = (s / t)[t > 0.1], t[t > 0.1]
    assert (share.sort().values - torch.linspace(0, 1, len(share))).abs().max() < 0.02
    assert abs(float(torch.corrcoef(torch.stack([share, later]))[0, 1])) < 0.03


def a_loss(s, t):
    """Any function of the pair, steep in both."""
    return 0.1 + 3 * t**4 + (t - s) / t


@pytest.mark.parametrize("grid", [False, True])
def test_adaptive_times_follow_the_loss_and_leave_its_mean_alone(grid):
    problem, memory, sampler = small(Uniform), Memory(), AdaptiveTimes(grid=grid)
    student = tabular(problem)
    even = GridTimes() if grid else UniformTimes()
    for seed in range(60):
        step = training_step(problem, student, 512, seed, memory=memory, student_steps=4)
        s, t, _ = sampler.draw(step)
        sampler.learn(step, s, t, a_loss(s, t))
    probs = sampler.probabilities(step)
    assert probs.shape == ((4 if grid else 8), 8)
    assert probs.sum() == pytest.approx(1)
    assert probs.min() >= 0.1 / probs.numel()
    # In proportion to the root mean square of the loss in each cell, by a fine grid of pairs.
    fine = (torch.arange(400) + 0.5) / 400
    rows = probs.shape[0]
    t = ((fine * rows).ceil() / rows if grid else fine)[:, None]
    s = t - fine[None] * (1 / rows if grid else t)
    square = (a_loss(s, t) ** 2).view(rows, 400 // rows, 8, 50).mean((1, 3)).sqrt().double()
    wanted = 0.9 * square / square.sum() + 0.1 / square.numel()
    torch.testing.assert_close(probs, wanted, rtol=0.05, atol=0)

    adaptive, plain = [], []
    for seed in range(20):
        step = training_step(problem, student, 2048, 100 + seed, memory=memory, student_steps=4)
        s, t, weight = sampler.draw(step)
        adaptive.append(weight * a_loss(s, t))
        plain.append(a_loss(*even.draw(step)[:2]))
    adaptive, plain = torch.cat(adaptive), torch.cat(plain)
    assert adaptive.mean() == pytest.approx(float(plain.mean()), rel=0.01)
    assert adaptive.std() < 0.5 * plain.std(), "importance sampling has not lowered the variance"


def test_adaptive_times_remember_across_a_checkpoint():
    problem, memory, sampler = small(Uniform), Memory(), AdaptiveTimes()
    step = training_step(problem, tabular(problem), 512, memory=memory)
    s, t, _ = sampler.draw(step)
    sampler.learn(step, s, t, a_loss(s, t))
    again = training_step(problem, tabular(problem), 512, memory=memory.copy())
    assert torch.equal(sampler.probabilities(again), sampler.probabilities(step))
    assert not torch.equal(
        sampler.probabilities(again),
        sampler.probabilities(training_step(problem, tabular(problem), 2)),
    )


@pytest.mark.parametrize("steps", [3, 7, 49, 100, 1000])
def test_a_time_on_the_grid_is_learned_in_its_own_cell(steps):
    """i / k * k may round to more than i; the loss must not go to the next row."""
    problem, sampler = small(Uniform), AdaptiveTimes(grid=True, cells=1, decay=0.0)
    step = training_step(problem, tabular(problem), 2, student_steps=steps)
    t = torch.arange(1, steps + 1, dtype=torch.float64) / steps
    sampler.learn(step, t - 0.5 / steps, t, torch.arange(1, steps + 1).double())
    assert torch.equal(
        step.memory.tensors["adaptive_times.squares"][:, 0].sqrt(),
        torch.arange(1, steps + 1.0).double(),
    )


@pytest.mark.parametrize("name", TimeSampler.registry)
def test_config_of_times_survives(name):
    sampler = TimeSampler.named(name)()
    assert TimeSampler.from_config(sampler.to_config()) == sampler


@pytest.mark.parametrize(
    "settings", [{"cells": 0}, {"explore": 0.0}, {"explore": 1.5}, {"decay": 1.0}, {"decay": -0.1}]
)
def test_impossible_adaptive_times_are_refused(settings):
    with pytest.raises(ValueError, match="cells must be at least 1"):
        AdaptiveTimes(**settings)
