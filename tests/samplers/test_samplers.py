"""The rules for one step back, and the exact laws of samplers, against enumeration."""

from __future__ import annotations

import pytest
import torch
from exact_bayes import ExactBayes, all_sequences, total_variation
from sklearn.datasets import load_digits

from hf_ddistill.diffusion import Diffusion
from hf_ddistill.parameterizations import Conditional, Prediction, Score
from hf_ddistill.processes import Absorbing, Ordinal, Process, Uniform
from hf_ddistill.samplers import Analytic, Ancestral, Canvas, Euler, TauLeaping, step_grid
from hf_ddistill.schedules import Cosine, Linear, LogLinear
from hf_ddistill.shapes import LOG_ZERO

K = 4
SAMPLERS = (Ancestral(), Analytic(), Euler(), TauLeaping())
each_process = pytest.mark.parametrize("cls", Process.registry.values(), ids=lambda cls: cls.id)
each_sampler = pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: sampler.id)


def exact(problem, t):
    """The prediction of an exact denoiser at every state."""
    return Prediction(problem.conditional(t).log().clamp_min(LOG_ZERO))


@each_process
def test_ancestral_is_the_exact_posterior_of_independent_positions(cls):
    diffusion = Diffusion(cls.example(K))
    problem = ExactBayes.independent(diffusion, length=2)
    for s, t in ((0.0, 0.3), (0.2, 0.5), (0.45, 0.5), (0.1, 0.9)):
        step = Ancestral().rule(exact(problem, t), diffusion, problem.states, s, t)
        transition = problem.product(step)
        torch.testing.assert_close(transition, problem.posterior(s, t), rtol=0, atol=1e-10)


@each_process
@pytest.mark.parametrize("sampler", [Euler(), TauLeaping()], ids=lambda sampler: sampler.id)
def test_halving_a_step_quarters_its_error(cls, sampler):
    diffusion = Diffusion(cls.example(K), Cosine())
    problem = ExactBayes.random(diffusion, length=1)
    errors = []
    for step in (0.01, 0.005, 0.0025):
        arguments = (exact(problem, 0.5), diffusion, problem.states, 0.5 - step, 0.5)
        errors.append(float((sampler.rule(*arguments) - Ancestral().rule(*arguments)).abs().max()))
    assert errors[0] < 0.05
    for whole, half in zip(errors[:-1], errors[1:], strict=True):
        assert 0.22 * whole < half < 0.28 * whole


@each_process
@each_sampler
@pytest.mark.parametrize("t", [0.02, 0.5, 1.0])
def test_every_rule_gives_distributions_whatever_is_predicted(cls, sampler, t):
    diffusion = Diffusion(cls.example(K), Linear(0.0, 5.0))
    x_t = torch.arange(K).expand(2, K)
    logits = torch.randn(2, K, K, dtype=torch.float64).scatter(-1, x_t[..., None], 2.0)
    log_p = Conditional().to_log_conditional(logits, diffusion, x_t, torch.tensor([t, t]))
    step = sampler.rule(Prediction(log_p), diffusion, x_t, torch.tensor([t / 2, 0.9 * t]), t)
    assert step.shape == (2, K, K) and step.min() >= 0
    torch.testing.assert_close(step.sum(-1), torch.ones(2, K, dtype=torch.float64))


def test_rounding_of_a_kernel_makes_no_mass():
    """Far from x_t Ordinal's kernel is rounding, and predicted mass is divided by it."""
    diffusion, x_t = Diffusion(Ordinal(64)), torch.randint(64, (2, 8))
    log_p = torch.randn(2, 8, 64, dtype=torch.float64).log_softmax(-1)
    step = Ancestral().rule(Prediction(log_p), diffusion, x_t, 0.005, 0.01)
    assert step.min() >= 0
    jump = (torch.arange(64) - x_t[..., None]).abs()
    # Between x_0 and x_t: within the reach of the forward process, 7 standard deviations.
    reach = 7 * (2 * 415 * diffusion.schedule.sigma(torch.tensor(0.01))).sqrt()
    assert step[jump > reach].sum() < 1e-6


@each_sampler
def test_unmasked_tokens_stay(sampler):
    diffusion = Diffusion(Absorbing(K))
    problem = ExactBayes.random(diffusion, length=2)
    known = ~diffusion.undetermined(problem.states)
    step = sampler.rule(exact(problem, 0.6), diffusion, problem.states, 0.3, 0.6)[known]
    torch.testing.assert_close(step, torch.nn.functional.one_hot(problem.states, K).double()[known])


def test_masks_are_revealed_at_the_rate_of_the_schedule():
    diffusion = Diffusion(Absorbing(3), LogLinear(1e-9))
    x_t, log_p = torch.tensor([[2]]), torch.tensor([[[0.25, 0.75, 1e-300]]]).double().log()
    for sampler in (Ancestral(), Analytic(), Euler()):
        step = sampler.rule(Prediction(log_p), diffusion, x_t, 0.6, 0.8)[0, 0]
        torch.testing.assert_close(step, torch.tensor([0.0625, 0.1875, 0.75]).double())


def test_gradient_through_a_step_is_finite():
    diffusion, x_t = Diffusion(Absorbing(K)), torch.tensor([[0, K - 1]])
    logits = torch.randn(1, 2, K, requires_grad=True)
    step = Ancestral().rule(Prediction(logits.log_softmax(-1)), diffusion, x_t, 0.2, 0.5)
    step.clamp_min(1e-9).log()[..., 0].sum().backward()
    assert logits.grad.isfinite().all() and logits.grad[0, 1].abs().sum() > 0


@each_process
@each_sampler
def test_law_of_an_exact_denoiser_tends_to_the_data(cls, sampler):
    """Total variation falls like 1 / n, down to what the prior misses of p_1."""
    diffusion = Diffusion(cls.example(K), Linear(0.0, 9.0))
    problem = ExactBayes.random(diffusion, length=2)
    prior = diffusion.process.limit()[problem.states].prod(-1)
    missed = total_variation(prior, problem.marginal(1.0))
    distances = []
    for steps in (128, 256, 512):
        law = problem.terminal_law(problem.denoiser(), steps, sampler)
        assert float(law.sum()) == pytest.approx(1)
        distances.append(total_variation(law, problem.data))
    assert distances[1] < 0.70 * distances[0] + missed
    assert distances[2] < 0.62 * distances[1] + missed
    assert distances[2] < 0.02 + missed


@pytest.mark.parametrize("process", [Absorbing(K), Uniform(K)], ids=lambda process: process.id)
@pytest.mark.parametrize("sampler", [Ancestral(), Euler()], ids=lambda sampler: sampler.id)
def test_samples_follow_the_exact_law_of_the_sampler(process, sampler):
    problem = ExactBayes.random(Diffusion(process), length=2)
    denoiser, draws = problem.denoiser(Score()), 20_000
    law = problem.terminal_law(denoiser, 3, sampler).clamp(0, 1)
    generator = torch.Generator().manual_seed(5)
    x = sampler.sample(denoiser, Canvas.empty((draws, 2)), 3, generator)
    counts = problem.index(x).bincount(minlength=len(law))
    spread = (draws * law * (1 - law)).sqrt()
    assert ((counts - draws * law).abs() <= 4.5 * spread + 1e-6).all()


@each_process
def test_a_sample_with_its_own_generator_does_not_depend_on_its_batch(cls):
    denoiser = ExactBayes.random(Diffusion(cls.example(K)), length=3).denoiser()

    def draw(seeds):
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        return Ancestral().sample(denoiser, Canvas.empty((len(seeds), 3)), 4, generators)

    together = draw(range(6))
    assert torch.equal(together, torch.cat([draw([seed]) for seed in range(6)]))
    assert together.max() < K and together.dtype == torch.int64


@pytest.fixture(scope="module")
def patches():
    """The standard problem: 2 x 3 patches of scikit-learn's digits, pixel > 7."""
    pixels = torch.tensor(load_digits().images > 7).long()
    found = pixels.unfold(1, 2, 1).unfold(2, 3, 1).reshape(-1, 6)
    clean = all_sequences(2, 6)
    law = (found * 2 ** torch.arange(5, -1, -1)).sum(-1).bincount(minlength=64) / len(found)
    law = law.double() + 1e-5
    return len(found), clean, law / law.sum()


def test_standard_problem_is_the_published_one(patches):
    number, clean, law = patches
    ones = (law[:, None] * clean).sum(0)
    entropy = float(torch.special.entr(law).sum())
    independent = float((torch.special.entr(ones) + torch.special.entr(1 - ones)).sum())
    assert number == 75_474
    assert entropy == pytest.approx(3.4612, abs=5e-5)
    assert independent - entropy == pytest.approx(0.6187, abs=5e-5)


@pytest.mark.parametrize(
    ("process", "figures"),
    [
        (Absorbing(3), [0.4465, 0.2216, 0.1121, 0.0568]),
        (Uniform(2), [0.4465, 0.2911, 0.1540, 0.0733]),
    ],
    ids=lambda value: value.id if isinstance(value, Process) else "",
)
def test_exact_teacher_has_the_known_distances_on_the_standard_problem(patches, process, figures):
    _, clean, law = patches
    problem = ExactBayes(Diffusion(process, LogLinear(1e-9)), clean, law)
    for steps, expected in zip((1, 2, 4, 8), figures, strict=True):
        terminal = problem.terminal_law(problem.denoiser(), steps)
        assert total_variation(terminal, problem.data) == pytest.approx(expected, abs=5e-5)


def test_grid_of_steps_runs_from_noise_to_data():
    assert step_grid(1) == [1.0, 0.0]
    assert step_grid(4) == [1.0, 0.75, 0.5, 0.25, 0.0]


@pytest.mark.parametrize("steps", [0, -3])
def test_no_steps_are_refused(steps):
    denoiser = ExactBayes.random(Diffusion(Uniform(K)), length=1).denoiser()
    with pytest.raises(ValueError, match=f"at least 1, got {steps}"):
        Ancestral().sample(denoiser, Canvas.empty((1, 1)), steps)


@each_sampler
def test_a_step_must_go_back_in_time(sampler):
    diffusion, x_t = Diffusion(Uniform(K)), torch.zeros(2, 1, dtype=torch.int64)
    prediction = Prediction(torch.zeros(2, 1, K).log_softmax(-1))
    with pytest.raises(ValueError, match="s=0.5 must precede t=0.5"):
        sampler.rule(prediction, diffusion, x_t, 0.5, 0.5)
    with pytest.raises(ValueError, match="s=0.8 must precede t=0.5"):
        sampler.rule(prediction, diffusion, x_t, torch.tensor([0.1, 0.8]), 0.5)
    with pytest.raises(ValueError, match="got values from -0.1"):
        sampler.rule(prediction, diffusion, x_t, -0.1, 0.5)
