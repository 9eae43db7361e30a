"""A step that draws x_0 and then what lies between has the law of the step rule."""

from __future__ import annotations

import pytest
import torch
from core_cases import PROCESSES

from hf_ddistill import Diffusion
from hf_ddistill.linalg import ScalarPlusLowRank
from hf_ddistill.parameterizations import Prediction
from hf_ddistill.processes import Hybrid, Kronecker, Uniform
from hf_ddistill.samplers import Analytic, Ancestral, Euler, Jump, TauLeaping
from hf_ddistill.samplers.flat_jumps import flat_jumps
from hf_ddistill.samplers.jumps import expected_jumps
from hf_ddistill.samplers.posterior import posterior, posterior_at

TIMES = [(0.0, 0.3), (0.2, 0.3), (0.01, 0.99), (0.5, 1.0)]
FLAT = {name: process for name, process in PROCESSES.items() if process.is_flat} | {
    "uniform, 30 tokens": Uniform(30),
    "hybrid, mask first": Hybrid(5, 0.4, 0),
}
CHANGING = {name: process for name, process in PROCESSES.items() if not process.reveals}


def said(process, rows, seed=0):
    """Some p(x_0 | x_t) (rows, 1, K), none at the tokens that data never hold."""
    generator = torch.Generator().manual_seed(seed)
    p = torch.rand(rows, 1, process.vocab_size, generator=generator, dtype=torch.float64) ** 3
    p[..., list(process.noise_tokens)] = 0
    return Prediction((p / p.sum(-1, keepdim=True)).log().clamp_min(-1e6))


@pytest.mark.parametrize(("s", "t"), TIMES)
@pytest.mark.parametrize("name", FLAT)
def test_the_mixture_of_few_pieces_is_the_step_rule(name, s, t):
    process = FLAT[name]
    diffusion, k = Diffusion(process), process.vocab_size
    first, second, whole = (diffusion.kernel(*pair) for pair in ((0.0, s), (s, t), (0.0, t)))
    assert isinstance(first, ScalarPlusLowRank)
    x_t = torch.arange(k)[:, None]
    prediction = said(process, k)
    x_0, z = torch.arange(k).expand(k, -1), x_t.expand(-1, k)
    weights = first.bridge_weights(second, x_0, z)
    ends = torch.nn.functional.one_hot(torch.stack([x_0, z], -1), k).double()
    fresh = (first.right / first.right.sum(0)).mT.expand(k, k, -1, -1)
    pieces = torch.cat([ends, fresh], -2)
    between = torch.einsum("zxp,zxpy->zxy", weights, pieces)
    # The weights sum to P_0t[x_0, x_t]; what is unreachable is not drawn.
    column = whole.columns(x_t)[:, 0]
    torch.testing.assert_close(between.sum(-1), column, rtol=0, atol=1e-13)
    p = prediction.log_conditional[:, 0].exp() * (column > 0)
    p = p / p.sum(-1, keepdim=True)
    law = torch.einsum("zx,zxy->zy", p / column.clamp_min(1e-300), between)
    expected = posterior(prediction, diffusion, x_t, s, t)[:, 0]
    known = p.sum(-1).isfinite()
    assert known.any()
    torch.testing.assert_close(law[known], expected[known], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("s", "t"), TIMES)
@pytest.mark.parametrize("name", CHANGING)
def test_the_probability_of_what_was_drawn_is_that_of_the_rule(name, s, t):
    process = CHANGING[name]
    diffusion, k = Diffusion(process), process.vocab_size
    x_t, prediction = torch.arange(k)[:, None], said(process, k)
    expected = posterior(prediction, diffusion, x_t, s, t)
    for x_s in torch.arange(k):
        probs = posterior_at(prediction, diffusion, x_t, x_s.expand(k, 1), s, t)
        known = expected[..., x_s].isfinite()
        torch.testing.assert_close(probs[known], expected[..., x_s][known], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("s", "t"), [(0.29, 0.3), (0.5, 0.99)])
@pytest.mark.parametrize("name", [name for name in FLAT if not FLAT[name].reveals])
def test_jumps_by_their_pieces_have_the_rates_of_the_rule(name, s, t):
    process = FLAT[name]
    diffusion, k = Diffusion(process), process.vocab_size
    x_t, prediction = torch.arange(k)[:, None], said(process, k)
    kernel, pieces = flat_jumps(prediction.log_prob_of(x_t).exp(), diffusion, x_t, s, t)
    laws = torch.cat(
        [prediction.log_conditional[:, 0].exp()[:, None], kernel.right.mT.expand(k, -1, k)], 1
    )
    laws = laws.scatter(-1, x_t.expand(-1, laws.shape[1])[..., None], 0.0)
    laws = laws / laws.sum(-1, keepdim=True).clamp_min(1e-300)
    rates = torch.einsum("xp,xpy->xy", pieces[:, 0], laws)
    expected = expected_jumps(prediction, diffusion, x_t, s, t)[:, 0]
    known = expected.isfinite().all(-1)
    torch.testing.assert_close(rates[known], expected[known], rtol=1e-11, atol=1e-12)


ALL = (Ancestral(), Analytic(), Jump(), Euler(), TauLeaping())


@pytest.mark.parametrize("sampler", ALL, ids=lambda s: s.id)
@pytest.mark.parametrize("name", CHANGING)
def test_drawn_steps_have_the_frequencies_of_the_rule(name, sampler):
    process, (s, t), draws = CHANGING[name], (0.3, 0.6), 4000
    diffusion = Diffusion(process)
    x_t = diffusion.corrupt(torch.zeros(3, 2).long(), t, torch.Generator().manual_seed(2))
    prediction = Prediction(said(process, 6).log_conditional.view(3, 2, -1))
    expected = sampler.rule(prediction, diffusion, x_t, s, t)
    many = Prediction(prediction.log_conditional.repeat_interleave(draws, 0))
    x_s = sampler.advance(
        many, diffusion, x_t.repeat_interleave(draws, 0), s, t, torch.Generator().manual_seed(3)
    )
    counts = torch.nn.functional.one_hot(x_s, process.vocab_size).double()
    counts = counts.view(3, draws, 2, -1).sum(1)
    spread = (draws * expected * (1 - expected).clamp_min(0)).sqrt()
    assert ((counts - draws * expected).abs() <= 4.5 * spread + 1e-6).all()


@pytest.mark.parametrize("sampler", [Ancestral(), Jump(), Euler()], ids=lambda s: s.id)
@pytest.mark.parametrize(
    "process", [Uniform(300), Hybrid(6), Kronecker((Uniform(3), Hybrid(4)))], ids=lambda p: p.id
)
def test_a_row_with_its_own_generator_does_not_depend_on_its_batch(process, sampler):
    diffusion, prediction = Diffusion(process), said(process, 12)
    log_p = prediction.log_conditional.view(3, 4, -1)
    x_t = torch.zeros(3, 4, dtype=torch.int64)

    def step(rows):
        generators = [torch.Generator().manual_seed(row) for row in rows]
        return sampler.advance(Prediction(log_p[rows]), diffusion, x_t[rows], 0.3, 0.6, generators)

    together = step([0, 1, 2])
    assert torch.equal(together, torch.cat([step([row]) for row in range(3)]))


@pytest.mark.parametrize("process", [Uniform(6), Hybrid(6)], ids=lambda p: p.id)
def test_rows_may_stand_at_times_of_their_own(process):
    diffusion, log_p = Diffusion(process), said(process, 2).log_conditional
    s, t = torch.tensor([0.0, 0.4]), torch.tensor([0.3, 0.8])
    x_t = torch.tensor([[1], [2]])
    step = Ancestral().advance(Prediction(log_p), diffusion, x_t, s, t, seeds())
    for row in range(2):
        alone = Ancestral().advance(
            Prediction(log_p[row:]), diffusion, x_t[row:], s[row:], t[row:], seeds()[row:]
        )
        assert torch.equal(step[row:], alone)


def seeds():
    return [torch.Generator().manual_seed(i) for i in range(2)]
