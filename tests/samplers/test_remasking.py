"""Steps that mask again or draw afresh: their law at s, and what each is under the other's name."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from exact_bayes import ExactBayes

from hf_ddistill.diffusion import Diffusion
from hf_ddistill.laboratory import ExactProblem, terminal_law
from hf_ddistill.parameterizations import Prediction
from hf_ddistill.processes import Absorbing, Process, Uniform
from hf_ddistill.samplers import (
    Ancestral,
    Canvas,
    Jump,
    Psi,
    ReMDM,
    ReMDMConfidence,
    ReMDMLoop,
    Sampler,
    step_grid,
)
from hf_ddistill.samplers.remasking import sigma
from hf_ddistill.schedules import Cosine, Geometric, LogLinear
from hf_ddistill.shapes import LOG_ZERO

K = 4
MASKED = Diffusion(Absorbing(K), LogLinear())
REMASKING = [ReMDM("cap", 0.3), ReMDM("rescale", 0.9), ReMDM("forward_backward", 0.7)]
MIXED = [Psi(0.4), Psi(strategy="cap", eta=0.2), Psi(between=(0.3, 0.6), eta=0.8)]
PAIRS = [(0.001, 0.01), (0.1, 0.3), (0.2, 0.21), (0.5, 0.9), (0.7, 1.0)]


def exact(problem, t):
    """The prediction of an exact denoiser at every state."""
    return Prediction(problem.conditional(t).log().clamp_min(LOG_ZERO))


def check_marginals(sampler, problem):
    for s, t in PAIRS:
        prediction = exact(problem, t)
        step = sampler.rule(prediction, problem.diffusion, problem.states, s, t)
        found = problem.marginal(t) @ problem.product(step)
        torch.testing.assert_close(found, problem.marginal(s), rtol=0, atol=1e-10)
        ancestral = Ancestral().rule(prediction, problem.diffusion, problem.states, s, t)
        yield (step - ancestral).abs().max()


@pytest.mark.parametrize("sampler", REMASKING, ids=repr)
def test_what_is_masked_again_leaves_the_law_at_s(sampler):
    for schedule in (LogLinear(), Cosine(), Geometric()):
        problem = ExactBayes.independent(Diffusion(Absorbing(K), schedule), 2)
        assert max(check_marginals(sampler, problem)) > 0.05, "it must do more than ancestral"


@pytest.mark.parametrize("sampler", MIXED, ids=repr)
@pytest.mark.parametrize("cls", Process.registry.values(), ids=lambda cls: cls.id)
def test_a_mixture_with_fresh_noise_leaves_the_law_at_s(cls, sampler):
    problem = ExactBayes.independent(Diffusion(cls.example(K)), 2)
    assert max(check_marginals(sampler, problem)) > 1e-3


def test_psi_is_remdm_under_masks():
    """sigma = (1 - kappa) (1 - alpha_s), as far as kappa is not below 0."""
    x_t = torch.arange(K).expand(3, K)
    log_p = torch.randn(3, K, K, dtype=torch.float64)
    log_p[..., K - 1] = LOG_ZERO
    certain = torch.full_like(log_p, LOG_ZERO).scatter(-1, x_t[..., None], 0.0)
    log_p = torch.where((x_t == K - 1)[..., None], log_p.log_softmax(-1), certain)
    compared = 0
    for schedule in (LogLinear(), Geometric()):
        diffusion = Diffusion(Absorbing(K), schedule)
        for s, t in PAIRS:
            for sampler in (*REMASKING, ReMDM(), ReMDM("rescale", 0.1)):
                psi = Psi(strategy=sampler.strategy, eta=sampler.eta)
                kappa = float(psi.share(diffusion, s, t))
                found, expected = (
                    each.rule(Prediction(log_p), diffusion, x_t, s, t) for each in (psi, sampler)
                )
                noised = 1 - float(diffusion.schedule.alpha(torch.tensor(s).double()))
                if float(sampler.sigma(diffusion, s, t)) <= noised:
                    compared += 1
                    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
                else:
                    assert kappa == pytest.approx(0, abs=1e-12)
    assert compared > 20, "a test of few is none"


def test_the_ends_of_psi_are_ancestral_and_jump():
    problem = ExactBayes.random(Diffusion(Uniform(K)), 2)
    for s, t in PAIRS:
        ends = exact(problem, t), problem.diffusion, problem.states, s, t
        torch.testing.assert_close(Psi(1.0).rule(*ends), Ancestral().rule(*ends))
        torch.testing.assert_close(Psi(0.0).rule(*ends), Jump().rule(*ends))
    outside = Psi(0.0, between=(0.4, 0.5)).rule(*ends)
    assert torch.equal(outside, Ancestral().rule(*ends))


def test_without_strength_there_is_no_remasking():
    problem = ExactBayes.random(MASKED, 2)
    for strategy in ("cap", "rescale", "forward_backward"):
        ends = exact(problem, 0.5), problem.diffusion, problem.states, 0.3, 0.5
        reached = problem.marginal(0.5) > 0
        found = ReMDM(strategy, 0.0).rule(*ends)[reached]
        torch.testing.assert_close(found, Ancestral().rule(*ends)[reached])


@pytest.mark.parametrize("schedule", [LogLinear(), Cosine(), Geometric()], ids=repr)
@pytest.mark.parametrize("n", [1, 2, 3, 20, 200])
def test_the_loop_descends_and_stands_still_where_it_is_told_to(n, schedule):
    sampler, diffusion = (
        ReMDMLoop(alpha=0.8, begins=0.4, ends=0.9),
        Diffusion(Absorbing(K), schedule),
    )
    grid = sampler.grid(n, diffusion)
    assert len(grid) == n + 1 and grid[0] == 1 and grid[-1] == 0
    assert all(t > s for t, s in pairwise(grid))
    again = [float(sampler.sigma(diffusion, s, t)) > 0 for t, s in pairwise(grid)]
    if n < 20:
        return
    assert again == [0.4 * n <= step and step + 1 <= 0.9 * n for step in range(n)]
    for step, masks in enumerate(again):
        if masks:
            left = schedule.alpha(torch.tensor(grid[step]).double())
            assert float(left) == pytest.approx(0.8, abs=0.02)


def test_revealed_tokens_are_masked_again_and_given_ones_are_held():
    problem = ExactBayes.random(Diffusion(Absorbing(3)), 3)
    seen = []
    tokens = torch.tensor([[1, 0, 0]]).repeat(200, 1)
    canvas = Canvas(tokens, torch.tensor([[False, True, True]]).repeat(200, 1))
    ReMDM("rescale", 1.0).sample(
        problem.denoiser(), canvas, 6, on_step=lambda reached: seen.append(reached.state)
    )
    back = [((before != 2) & (after == 2)).any(0) for before, after in pairwise(seen)]
    assert torch.stack(back).any(0).tolist() == [False, True, True]
    assert all((state[:, 0] == 1).all() for state in seen) and seen[-1].max() < 2


def test_what_was_revealed_with_little_confidence_is_masked_again_and_what_is_given_never():
    """sigma softmax(-p) over the tokens that the run has drawn, and no others."""
    run = ReMDMConfidence(eta=0.5).begin()
    x_t = torch.tensor([[0, 1, 3, 2], [3, 3, 3, 1]])
    assert not run.again(MASKED, x_t, 0.3, 0.5).any(), "at first nothing has been drawn"
    run._known["p"] = torch.tensor([[0.9, 0.2, 0.1, torch.inf], [torch.inf] * 4]).double()
    again = run.again(MASKED, x_t, 0.3, 0.5)
    weights = torch.tensor([0.9, 0.2]).double().neg().exp()
    level = 0.5 * sigma("rescale", 1.0, MASKED, 0.3, 0.5)
    torch.testing.assert_close(again[0, :2], level * weights / weights.sum())
    assert not again[0, 2:].any() and not again[1].any()


def test_by_confidence_a_step_from_a_prediction_is_that_of_the_denoiser():
    problem, states = ExactBayes.random(Diffusion(Absorbing(3)), 3), []
    for way in ("step", "advance"):
        run, x = ReMDMConfidence().begin(), torch.full((50, 3), 2)
        x[:, 0], generator, denoiser = 1, torch.Generator().manual_seed(0), problem.denoiser()
        for t, s in pairwise(step_grid(8)):
            if way == "step":
                x = run.step(denoiser, x, s, t, generator)
            else:
                x = run.advance(denoiser(x, t), denoiser.diffusion, x, s, t, generator)
            states.append(x)
    assert torch.equal(torch.stack(states[:8]), torch.stack(states[8:]))
    back = [((before != 2) & (after == 2)).any(0) for before, after in pairwise(states[:8])]
    assert torch.stack(back).any(0).tolist() == [False, True, True] and states[7].max() < 2


def test_by_confidence_the_law_comes_to_the_data_s_but_more_slowly():
    own = ExactBayes.random(Diffusion(Absorbing(3)), 2)
    problem = ExactProblem(own.law, own.clean, own.diffusion)

    def far(sampler, n):
        grid = sampler.grid(n, problem.diffusion)
        law = terminal_law(problem.denoiser(), problem, 2, grid, sampler)
        return float((law - problem.law).abs().sum() / 2)

    slow = [far(ReMDMConfidence(), n) for n in (4, 8)]
    assert slow[0] > 1.2 * slow[1], slow
    assert slow[1] > 1.1 * far(ReMDM("rescale", 1.0), 8)


REFUSALS = {
    "by confidence": ({"type": "remdm_confidence", "eta": -1.0}, "eta, how strongly .* got -1"),
    "strategy": ({"type": "remdm", "strategy": "luck"}, "Unknown strategy 'luck'; there are: cap"),
    "eta": ({"type": "remdm", "eta": 1.2}, r"eta, how strongly .* is in \[0, 1\], got 1.2"),
    "no eta": ({"type": "psi", "eta": float("nan")}, r"eta, how strongly .* got nan"),
    "kappa": ({"type": "psi", "kappa": -0.1}, r"kappa, the share of the posterior, .* got -0.1"),
    "between": ({"type": "psi", "between": [0.6, 0.2]}, r"two times, ascending in \[0, 1\], got"),
    "alpha": ({"type": "remdm_loop", "alpha": 1.0}, r"share revealed in the loop, is in \(0, 1\)"),
    "ends": ({"type": "remdm_loop", "ends": 0.4}, "0 < begins < ends < 1, got 0.45 and 0.4"),
}


@pytest.mark.parametrize(("settings", "message"), REFUSALS.values(), ids=REFUSALS.keys())
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Sampler.from_config(settings)


@pytest.mark.parametrize(
    "sampler", [ReMDM(), ReMDMLoop(), ReMDMConfidence()], ids=lambda sampler: sampler.id
)
def test_a_process_without_masks_is_refused(sampler):
    problem = ExactBayes.random(Diffusion(Uniform(K)), 1)
    with pytest.raises(ValueError, match="as Absorbing allows, not Uniform; 'psi' is for every"):
        sampler.sample(problem.denoiser(), Canvas.empty((1, 1)), 2)
