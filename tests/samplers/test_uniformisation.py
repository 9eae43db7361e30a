"""Jumps by thinning: the bound, the generator, the number of calls, and the step that is drawn."""

from __future__ import annotations

import math

import pytest
import torch
from exact_bayes import ExactBayes, total_variation
from scipy.integrate import solve_ivp
from torch.nn.functional import one_hot

from hf_ddistill.denoisers import NetworkDenoiser
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.parameterizations import Conditional, Prediction
from hf_ddistill.processes import Absorbing, Ordinal, Uniform
from hf_ddistill.samplers import Canvas, Uniformisation
from hf_ddistill.samplers.uniformisation import jump_law
from hf_ddistill.schedules import Cosine, Geometric, LogLinear, Polynomial
from hf_ddistill.shapes import LOG_ZERO

L, EACH = 2, [Diffusion(Absorbing(3), Cosine(1e-3)), Diffusion(Uniform(3), LogLinear(1e-2))]
each_diffusion = pytest.mark.parametrize("diffusion", EACH, ids=["absorbing", "uniform"])


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("schedule", [Cosine(), Geometric(), Polynomial(0.5)], ids=repr)
@pytest.mark.parametrize("cls", [Absorbing, Uniform])
def test_no_conditional_exceeds_the_bound_and_certainty_meets_it(cls, schedule):
    diffusion, K = Diffusion(cls(5), schedule), 5
    clean = [token for token in range(K) if token not in diffusion.process.noise_tokens]
    noise = diffusion.process.limit().nonzero()[:, 0]  # what can jump
    x_t = noise.expand(len(clean) + 200, len(noise))
    log_p = torch.full((*x_t.shape, K), LOG_ZERO, dtype=torch.float64)
    certain = one_hot(torch.tensor(clean), K)[:, None].double()
    log_p[: len(clean)] = certain.log().clamp_min(LOG_ZERO)
    random = torch.randn(200, len(noise), len(clean), generator=seeded()).double()
    log_p[len(clean) :, :, clean] = (4 * random).log_softmax(-1)
    for t in (1e-3, 0.3, 0.999):
        law, bound = jump_law(Prediction(log_p), diffusion, x_t, t)
        assert law.min() >= 0
        torch.testing.assert_close(law.sum(-1), torch.ones(law.shape[:2]).double())
        leaving = 1 - law.gather(-1, x_t[..., None])[..., 0]
        met = torch.ones(len(noise), dtype=torch.float64)
        torch.testing.assert_close(leaving[: len(clean)].amax(0), met, rtol=0, atol=1e-9)
        assert bound.min() > 0


def generator_matrix(problem, noise):
    """Of the chain that the sampler's proposals make, per unit of noise, (N, N)."""
    t = problem.diffusion.schedule.inverse(torch.tensor(noise, dtype=torch.float64))
    said = Prediction(problem.conditional(t).log().clamp_min(LOG_ZERO))
    law, bound = jump_law(said, problem.diffusion, problem.states, t)
    stays, total = one_hot(problem.states, law.shape[-1]).double(), 0
    for place in range(L):
        one = stays.clone()
        one[:, place] = law[:, place]
        total = total + bound[:, place, None] * (problem.product(one) - torch.eye(len(stays)))
    return total


@each_diffusion
def test_its_chain_solves_the_kolmogorov_equation_of_the_reverse_process(diffusion):
    """dp / d(-sigma) = p G from t to s is the exact posterior, whatever is started from."""
    problem = ExactBayes.random(diffusion, L)
    ends = [float(diffusion.schedule.sigma(torch.tensor(t))) for t in (0.7, 0.3)]
    start = torch.full((len(problem.states),), 1.0, dtype=torch.float64)
    start = start / start.sum()
    solved = solve_ivp(
        lambda clock, p: (torch.from_numpy(p) @ generator_matrix(problem, ends[0] - clock)).numpy(),
        (0.0, ends[0] - ends[1]),
        start.numpy(),
        method="DOP853",
        rtol=1e-10,
        atol=1e-12,
    )
    expected = start @ problem.posterior(0.3, 0.7)
    torch.testing.assert_close(torch.from_numpy(solved.y[:, -1]), expected, rtol=0, atol=1e-8)


@each_diffusion
def test_a_step_is_drawn_from_the_exact_posterior(diffusion):
    problem, draws = ExactBayes.random(diffusion, L), 3000
    x_t = problem.states[-1].expand(draws, L)  # both masks, where there are masks
    denoiser = problem.denoiser()
    x_s = Uniformisation().step(denoiser, x_t, 0.3, 0.8, seeded(2))
    expected = draws * problem.posterior(0.3, 0.8)[-1]
    found = problem.index(x_s).bincount(minlength=len(expected))
    possible = expected > 0
    assert found[~possible].sum() == 0
    chi = float(((found - expected).square() / expected)[possible].sum())
    freedom = int(possible.sum()) - 1
    assert abs(chi - freedom) < 3.5 * math.sqrt(2 * freedom)
    product = problem.product(problem.conditional(0.8)[-1:])  # as if drawn at once
    assert total_variation(product[0], expected / draws) > 0.05


def counted(diffusion, tokens):
    """A denoiser of no opinion, and how many rows each of its calls has had."""
    rows = []

    def network(x_t, t):
        rows.append(len(x_t))
        assert t is None or ((t > 0) & (t <= 1)).all()
        return torch.zeros(*x_t.shape, tokens)

    return NetworkDenoiser(network, diffusion, Conditional()), rows


def test_under_masking_no_proposal_is_in_vain():
    for steps in (1, 7):
        denoiser, rows = counted(Diffusion(Absorbing(4), Geometric()), 4)
        x = Uniformisation().sample(denoiser, Canvas.empty((5, 6)), steps, seeded())
        assert sum(rows) == 5 * 6 and x.max() < 3
    assert Uniformisation().expected_calls(denoiser.diffusion, 6) == 6


def test_calls_under_uniform_noise_are_poisson_with_the_mean_that_is_told():
    diffusion, sampler, batch = Diffusion(Uniform(4), LogLinear(1e-2)), Uniformisation(1e-2), 400
    for steps in (1, 3):
        denoiser, rows = counted(diffusion, 4)
        sampler.sample(denoiser, Canvas.empty((batch, 3)), steps, seeded(steps))
        mean = sampler.expected_calls(diffusion, 3)
        proposals = sum(rows) - batch  # the last call of all draws x_0
        assert abs(proposals - batch * mean) < 3.5 * math.sqrt(batch * mean)
        assert rows[0] == batch == rows[-1] and rows[-2] < batch / 4


def test_given_tokens_are_never_proposed():
    denoiser, rows = counted(Diffusion(Uniform(4), LogLinear(1e-2)), 4)
    given = torch.zeros(2, 5, dtype=torch.int64)
    infill = torch.tensor([[True] + [False] * 4, [False] * 5])
    x = Uniformisation().sample(denoiser, Canvas(given, infill), 2, seeded())
    assert max(rows[:-1]) == 1 and (x[:, 1:] == 0).all()


def test_what_it_has_no_bound_for_is_refused():
    with pytest.raises(ValueError, match="'uniformisation' has a bound for.*not for Ordinal"):
        Uniformisation().check(Diffusion(Ordinal(4)))
    for cut in (0.0, 1.0):
        with pytest.raises(ValueError, match=f"cut, the time at which proposals end.*got {cut}"):
            Uniformisation(cut)
