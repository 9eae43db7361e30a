"""The Gaussian dualities: against Duo's numbers, and against Gaussians that are drawn."""

from __future__ import annotations

import pytest
import torch
from enumeration import forward_joint, shared_joint, tabular, training_step
from exact_bayes import ExactBayes
from golden import golden
from test_couplings import DRAWS, S, T, drawn, excess

from hf_ddistill.couplings import GaussianDuality, GaussianTimes, MaskedDuality, StepTimes
from hf_ddistill.couplings.gaussian_duality import gaussian_gamma, uniform_alpha
from hf_ddistill.couplings.times import EARLIEST
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.processes import Absorbing, Uniform


def small(process):
    return ExactBayes.random(Diffusion(process), 2, seed=2)


# ---------------------------------------------------------------------------- alpha = T(alpha~)


def test_alpha_of_the_gaussian_is_not_duo_s():
    """Their quadrature and series, and what they cache for GPT-2's vocabulary."""
    numbers = golden("duo_duality")
    gamma = numbers["gamma"]
    for size in (50, 257):
        ours = uniform_alpha(gamma, size)
        torch.testing.assert_close(ours, numbers[f"V{size}.alpha_quad"], atol=1e-6, rtol=0)
        torch.testing.assert_close(ours, numbers[f"V{size}.alpha_series"], atol=1e-6, rtol=0)
    cached = numbers["Vgpt2.alpha_cached"]
    torch.testing.assert_close(uniform_alpha(gamma, 50257), cached, atol=2e-5, rtol=0)


def test_alpha_of_two_tokens_is_not_the_normal_integral():
    """K = 2: the entry of x_0 is the larger one with the probability Phi(m / sqrt 2)."""
    gamma = torch.linspace(-6, 6, 25, dtype=torch.float64)
    p = torch.special.ndtr(torch.exp(-gamma / 2) / 2**0.5)
    torch.testing.assert_close(uniform_alpha(gamma, 2), 2 * p - 1, atol=1e-14, rtol=0)


@pytest.mark.parametrize("size", [2, 27, 50257])
@pytest.mark.parametrize("alpha", [1e-3, 0.5, 0.999])
def test_gamma_does_not_come_back(size, alpha):
    gamma = gaussian_gamma(alpha, size)
    again = float(uniform_alpha(torch.tensor(gamma, dtype=torch.float64), size))
    assert again == pytest.approx(alpha, abs=1e-12)


# ---------------------------------------------------------------------------- pairs


def shared_gaussian(problem):
    """(x_0, w_t, w_s), w of one normal noise at the alphas of the problem's schedule."""
    size, generator = problem.diffusion.vocab_size, torch.Generator().manual_seed(3)
    x_0 = problem.clean[torch.multinomial(problem.law, DRAWS, True, generator=generator)]
    noise = torch.randn(*x_0.shape, size, generator=generator, dtype=torch.float64)
    one_hot = torch.nn.functional.one_hot(x_0, size)
    alphas = (float(problem.diffusion.schedule.alpha(torch.tensor(t))) for t in (T, S))
    gammas = [torch.tensor(gaussian_gamma(alpha, size)).double() for alpha in alphas]
    return x_0, *(g.neg().sigmoid().sqrt() * one_hot + g.sigmoid().sqrt() * noise for g in gammas)


def pair_counts(problem, x_t, x_s):
    size = len(problem.states)
    pairs = problem.index(x_t) * size + problem.index(x_s)
    return torch.bincount(pairs, minlength=size * size).view(size, size)


def test_pairs_are_not_those_of_one_gaussian():
    problem = small(Uniform(3))
    joint = shared_joint(problem, S, T)
    _, w_t, w_s = shared_gaussian(problem)
    assert excess(pair_counts(problem, w_t.argmax(-1), w_s.argmax(-1)), joint) < 5
    ours = drawn(GaussianDuality(), problem, tabular(problem))
    assert excess(ours, joint) < 5
    assert excess(ours, forward_joint(problem, S, T)) > 10, "the test sees no difference"


def test_shared_noise_does_not_keep_more_tokens_than_the_true_process():
    """P(x_s = x_t): 1 - (alpha_s - alpha_t)(K - 1) / K, the most that the two laws allow."""
    problem = small(Uniform(3))
    same = (problem.states[:, None] == problem.states[None]).double().mean(-1)
    shared, true = (
        (joint * same).sum()
        for joint in (shared_joint(problem, S, T), forward_joint(problem, S, T))
    )
    alphas = [float(problem.diffusion.schedule.alpha(torch.tensor(t))) for t in (S, T)]
    assert float(shared) == pytest.approx(1 - (alphas[0] - alphas[1]) * 2 / 3)
    assert float(true) < float(shared) - 0.1


def test_masked_trajectories_of_one_gaussian_are_not_the_true_process():
    """What the abstract calls deterministic coupled trajectories: nothing that a chain of masks
    would not have, by the Gaussians themselves and by ours."""
    problem = small(Absorbing(3))
    x_0, w_t, w_s = shared_gaussian(ExactBayes(Diffusion(Uniform(2)), problem.clean, problem.law))
    # Masked at the alpha at which the entry of x_0 is the largest: P = alpha + (1 - alpha) / 2.
    x_t, x_s = (torch.where(w.argmax(-1) == x_0, x_0, 2) for w in (w_t, w_s))
    shares = [1 - float((x != x_0).double().mean()) for x in (x_t, x_s)]
    inverse = problem.diffusion.schedule.inverse
    t, s = (float(inverse(-torch.tensor(share).double().log())) for share in shares)
    joint = forward_joint(problem, s, t)
    assert excess(pair_counts(problem, x_t, x_s), joint) < 5
    ours = drawn(MaskedDuality(), problem, tabular(problem))
    assert excess(ours, forward_joint(problem, S, T)) < 5


# ---------------------------------------------------------------------------- times


@pytest.mark.parametrize("times", [StepTimes(), StepTimes(grid=True), GaussianTimes()])
@pytest.mark.parametrize("calls", [1, 4])
def test_a_step_is_not_one_of_the_student_s(times, calls):
    problem = small(Uniform(3))
    step = training_step(problem, tabular(problem), 512, student_steps=calls)
    s, t, weight = times.draw(step)
    assert bool((s < t).all()) and float(t.max()) <= 1 and float(s.min()) >= EARLIEST / 2
    assert bool((weight == 1).all())
    if isinstance(times, GaussianTimes):
        low, high = (gaussian_gamma(float(a), 3) for a in step.diffusion.schedule.alpha(ends()))
        place = [
            (gaussian_gamma(float(step.diffusion.schedule.alpha(x)), 3) - low) / (high - low)
            for x in (t[0], s[0])
        ]
        assert place[0] - place[1] == pytest.approx(1 / calls, abs=0.02)
    else:
        inside = s > EARLIEST
        torch.testing.assert_close((t - s)[inside], torch.full_like(t, 1 / calls)[inside])
    if calls == 1:
        assert float(t.min()) == pytest.approx(1)


def ends():
    return torch.tensor([EARLIEST, 1.0], dtype=torch.float64)


def test_a_duality_takes_another_process_and_a_clock_that_runs_backwards():
    for coupling, process, told in (
        (GaussianDuality(), Absorbing(3), "'masked_duality'"),
        (MaskedDuality(), Uniform(3), "'gaussian_duality'"),
    ):
        problem = small(process)
        step = training_step(problem, tabular(problem))
        with pytest.raises(ValueError, match=told):
            coupling.draw(step, *StepTimes().draw(step)[:2])
    with pytest.raises(ValueError, match="two ascending numbers"):
        GaussianTimes(gamma=(-1, -4))
