"""What a sampler says of a step without a prediction is what its rule says with one."""

from __future__ import annotations

import pytest
import torch
from exact_bayes import ExactBayes

from hf_ddistill.diffusion import Diffusion
from hf_ddistill.laboratory.branching_law import branching_law
from hf_ddistill.parameterizations import Prediction
from hf_ddistill.processes import Absorbing, Hybrid, Uniform
from hf_ddistill.samplers import Sampler
from hf_ddistill.schedules import Cosine, Geometric, Linear, LogLinear, PiecewiseLinear
from hf_ddistill.shapes import LOG_ZERO

K, MASK, B = 5, 2, 6
DIFFUSION = Diffusion(Absorbing(K, MASK), LogLinear())
#: Those that are a product over positions and say which of them change.
FAMILY = [
    kind()
    for kind in Sampler.registry.values()
    if kind().is_product and kind().step_chances(DIFFUSION, 0.4, 0.5) is not None
]
SCHEDULES = [LogLinear(), Cosine(), Linear(0.0, 6.0), Geometric(), PiecewiseLinear((0.8, 0.3, 0.1))]
each_sampler = pytest.mark.parametrize("sampler", FAMILY, ids=lambda sampler: sampler.id)


def expected(chances, log_p, x_t):
    """(B, L, K), by the words of the contract."""
    mask, reveal = torch.tensor(MASK), torch.as_tensor(chances.reveal).double().view(-1, 1, 1)
    remask = torch.as_tensor(chances.remask).double().view(-1, 1, 1)
    one_hot = torch.nn.functional.one_hot
    revealed = reveal * log_p.exp() + (1 - reveal) * one_hot(mask, K)
    kept = (1 - remask) * one_hot(x_t, K) + remask * one_hot(mask, K)
    return torch.where((x_t == mask)[..., None], revealed, kept)


@each_sampler
@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_the_rule_is_what_the_chances_say(sampler, schedule):
    diffusion, generator = Diffusion(Absorbing(K, MASK), schedule), torch.Generator().manual_seed(0)
    x_t = torch.arange(K).expand(B, K)
    log_p = torch.randn(B, K, K, generator=generator, dtype=torch.float64)
    log_p[..., MASK] = LOG_ZERO
    certain = torch.full_like(log_p, LOG_ZERO).scatter(-1, x_t[..., None], 0.0)
    log_p = torch.where((x_t == MASK)[..., None], log_p.log_softmax(-1), certain)
    t = torch.tensor([1e-3, 0.2, 0.5, 0.5, 0.97, 1.0], dtype=torch.float64)
    s = t * torch.tensor([0.5, 0.9, 1e-9, 0.999, 0.3, 0.7], dtype=torch.float64)
    chances = sampler.step_chances(diffusion, s, t)
    rule = sampler.probs(Prediction(log_p), diffusion, x_t, s, t)
    torch.testing.assert_close(expected(chances, log_p, x_t), rule, rtol=0, atol=1e-12)
    for row in (1, 4):
        one = sampler.step_chances(diffusion, float(s[row]), float(t[row]))
        assert float(one.reveal) == pytest.approx(float(chances.reveal[row]), abs=1e-14)
        assert 0 < one.reveal <= 1, "such a test could not fail"


@each_sampler
def test_to_data_everything_is_revealed_and_nothing_masked(sampler):
    if sampler.step_chances(DIFFUSION, 0.0, 0.3) is None:
        pytest.skip("Its last step draws nothing.")
    assert sampler.step_chances(DIFFUSION, 0.0, 0.3).reveal == 1
    some = sampler.step_chances(DIFFUSION, torch.tensor([0.0, 0.2]), 0.3)
    assert some.reveal[0] == 1 > some.reveal[1] and some.remask.expand(2)[0] == 0


@each_sampler
def test_no_chances_are_known_where_noise_is_no_mask(sampler):
    for process in (Uniform(K), Hybrid(K)):
        assert sampler.step_chances(Diffusion(process), 0.2, 0.3) is None


@pytest.mark.parametrize("sampler", [s for s in FAMILY if s.id in ("ancestral", "jump", "remdm")])
def test_the_code_of_a_step_has_the_law_of_the_rule(sampler):
    """All outcomes of its own draws, followed one by one."""
    diffusion, grid = Diffusion(Absorbing(3, 1), LogLinear(0.1)), [1.0, 0.5, 0.0]
    problem = ExactBayes.random(diffusion, 2)
    law = branching_law(problem.denoiser(), sampler, 2, grid)
    expected = problem.terminal_law(problem.denoiser(), 2, sampler)
    assert (law - expected).abs().max() < 1e-12 and (expected - problem.data).abs().max() > 1e-3
