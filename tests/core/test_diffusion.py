"""A process at the pace of a schedule: kernels, draws, their memory, and Bayes' rule."""

from __future__ import annotations

import json

import pytest
import torch
from exact_bayes import ExactBayes
from largest_tensor import LargestTensor

from hf_ddistill.diffusion import Diffusion
from hf_ddistill.parameterizations import Prediction, recover
from hf_ddistill.processes import Absorbing, Hybrid, LowRank, Ordinal, Process, Uniform
from hf_ddistill.schedules import Geometric, Linear, LogLinear, Schedule

K = 6
each_process = pytest.mark.parametrize("cls", Process.registry.values(), ids=lambda cls: cls.id)
each_schedule = pytest.mark.parametrize("name", Schedule.registry)


def time_of(diffusion, sigma):
    """The time of about that much noise, where float64 lets ratios and conditionals speak to 1e-10.

    A kernel's inverse multiplies rounding (1e-16) by its condition number. Ordinal's and General's
    fastest modes decay like exp(-14 sigma) and faster, so beyond sigma = 1 the ratios no longer
    hold the conditional to 1e-10, whatever formula reads them. And entries of Ordinal's kernel
    far from the diagonal, sums of cancelling modes, have no ten digits below 1e-6.
    """

    def kernel():
        t = diffusion.schedule.inverse(torch.tensor(sigma, dtype=torch.float64))
        return t, diffusion.kernel(0.0, t).dense()

    while torch.linalg.cond(kernel()[1]) > 1e4:
        sigma /= 2
    while kernel()[1][kernel()[1] > 1e-14].min() < 1e-5:
        sigma *= 2
    return kernel()[0]


@each_process
@each_schedule
@pytest.mark.parametrize("sigma", [0.02, 0.5, 3.0])
def test_conditional_and_score_are_those_of_enumeration(cls, name, sigma):
    diffusion = Diffusion(cls.example(K), Schedule.from_config(name))
    problem, t = ExactBayes.random(diffusion, length=2), time_of(diffusion, sigma)
    check_bayes(problem, t)


@each_process
def test_conditional_and_score_are_those_of_enumeration_at_three_positions(cls):
    diffusion = Diffusion(cls.example(4))
    check_bayes(ExactBayes.random(diffusion, length=3), time_of(diffusion, 0.8))


def check_bayes(problem, t):
    diffusion, x_t = problem.diffusion, problem.states
    conditional, ratios = problem.conditional(t), problem.ratios(t)
    recovered = recover(ratios, diffusion, x_t, t)
    torch.testing.assert_close(recovered, conditional, rtol=0, atol=1e-10)
    score = Prediction(conditional.log()).score(diffusion, x_t, t)
    # Under Absorbing an unmasked x_0 is certain and says nothing of other tokens: no ratio there.
    asked = diffusion.undetermined(x_t)
    torch.testing.assert_close(score[asked], ratios[asked], rtol=1e-9, atol=1e-10)
    again = Prediction.from_score(score, diffusion, x_t, t)
    torch.testing.assert_close(again.log_conditional.exp(), conditional, rtol=0, atol=1e-10)


def test_unmasked_token_is_a_point_mass():
    diffusion = Diffusion(Absorbing(K))
    problem = ExactBayes.random(diffusion, length=2)
    known = ~diffusion.undetermined(problem.states)
    one_hot = torch.nn.functional.one_hot(problem.states, K).double()[known]
    torch.testing.assert_close(problem.conditional(0.5)[known], one_hot)
    recovered = recover(problem.ratios(0.5), diffusion, problem.states, 0.5)
    torch.testing.assert_close(recovered[known], one_hot)


@each_process
def test_reverse_rate_turns_the_law_back(cls):
    """d p_t / dt = -p_t R for the reverse rate R, as p_t runs along the forward process."""
    diffusion = Diffusion(cls.example(K))
    problem = ExactBayes.random(diffusion, length=1)
    t = torch.tensor(0.4, dtype=torch.float64)
    slope = torch.autograd.functional.jacobian(problem.marginal, t)
    rate = diffusion.reverse_rate(problem.ratios(t), problem.states, t)[:, 0]
    assert rate.sum(-1).abs().max() < 1e-12
    torch.testing.assert_close(problem.marginal(t) @ rate, -slope, rtol=0, atol=1e-12)


@each_process
def test_corrupted_tokens_follow_the_kernel(cls):
    diffusion, draws = Diffusion(cls.example(K)), 10_000
    t = torch.tensor([0.1, 0.6, 1.0])
    x_0 = torch.arange(K).repeat_interleave(draws).expand(3, -1)
    x_t = diffusion.corrupt(x_0, t, torch.Generator().manual_seed(2)).view(3, K, draws)
    counts = torch.nn.functional.one_hot(x_t, K).sum(2).double()
    rows = diffusion.kernel(torch.zeros(3), t).dense().clamp(0, 1)
    assert (counts[rows < 1e-14] == 0).all()
    spread = (draws * rows * (1 - rows)).sqrt()
    assert ((counts - draws * rows).abs() <= 4.5 * spread + 1e-6).all()


@each_process
def test_renoising_twice_is_noising_once(cls):
    diffusion, draws = Diffusion(cls.example(K)), 40_000
    generator = torch.Generator().manual_seed(3)
    x_s = diffusion.corrupt(torch.ones(1, draws, dtype=torch.int64), 0.3, generator)
    x_t = diffusion.renoise(x_s, 0.3, 0.7, generator)
    law = diffusion.kernel(0.0, 0.7).dense()[1].clamp(0, 1)
    spread = (law * (1 - law) / draws).sqrt()
    assert ((x_t[0].bincount(minlength=K) / draws - law).abs() <= 4.5 * spread + 1e-9).all()


@each_process
@each_schedule
def test_data_are_clean_at_time_zero(cls, name):
    """Also under Geometric, whose total noise does not start at 0."""
    diffusion = Diffusion(cls.example(K), Schedule.from_config(name))
    eye = torch.eye(K, dtype=torch.float64)
    torch.testing.assert_close(diffusion.kernel(0.0, 0.0).dense(), eye, rtol=0, atol=1e-12)
    x_0 = torch.randint(K, (2, 500))
    assert torch.equal(diffusion.corrupt(x_0, 0.0), x_0)
    t = torch.tensor(0.5, dtype=torch.float64)
    expected = diffusion.process.kernel(torch.zeros_like(t), diffusion.schedule.sigma(t)).dense()
    torch.testing.assert_close(diffusion.kernel(0.0, t).dense(), expected)


@each_process
def test_each_row_has_its_own_time(cls):
    diffusion = Diffusion(cls.example(K))
    s, t = torch.tensor([0.0, 0.2]), torch.tensor([0.3, 0.9])
    together = diffusion.kernel(s, t).dense()
    for i in range(2):
        torch.testing.assert_close(together[i], diffusion.kernel(s[i], t[i]).dense())


@each_process
def test_a_row_with_its_own_generator_does_not_depend_on_its_batch(cls):
    diffusion = Diffusion(cls.example(K))
    x_0, t = torch.randint(K, (3, 40)), torch.tensor([0.2, 0.5, 0.9])

    def generators(rows):
        return [torch.Generator().manual_seed(row) for row in rows]

    noised, prior = (
        diffusion.corrupt(x_0, t, generators(range(3))),
        diffusion.prior((3, 40), generators(range(3))),
    )
    for row in range(3):
        alone = diffusion.corrupt(x_0[row : row + 1], t[row : row + 1], generators([row]))
        assert torch.equal(alone, noised[row : row + 1])
        assert torch.equal(diffusion.prior((1, 40), generators([row])), prior[row : row + 1])


@each_process
def test_prior_follows_the_limit_law(cls):
    diffusion, draws = Diffusion(cls.example(K)), 40_000
    law = diffusion.process.limit()
    drawn = diffusion.prior((2, draws // 2), torch.Generator().manual_seed(0))
    assert drawn.shape == (2, draws // 2) and drawn.dtype == torch.int64
    spread = (law * (1 - law) / draws).clamp_min(0).sqrt()
    assert ((drawn.flatten().bincount(minlength=K) / draws - law).abs() <= 4.5 * spread).all()


@each_process
def test_json_keeps_the_diffusion(cls):
    diffusion = Diffusion(cls.example(K), Geometric(1e-3, 5.0))
    config = json.loads(json.dumps(diffusion.to_config()))
    assert Diffusion.from_config({**config, "parameterization": "subs"}) == diffusion
    assert Diffusion.from_config({"process": config["process"]}).schedule == LogLinear()


def test_diffusion_without_a_process_is_refused():
    with pytest.raises(ValueError, match=r"needs a 'process', got the keys \['schedule'\]"):
        Diffusion.from_config({"schedule": "cosine"})


def test_only_absorbing_reveals_tokens():
    x_t = torch.tensor([[0, 3, 1, 3]])
    assert Diffusion(Absorbing(4)).undetermined(x_t).tolist() == [[False, True, False, True]]
    for process in (Uniform(4), Hybrid(4), Hybrid(4, constant=True), Ordinal(4)):
        assert Diffusion(process).undetermined(x_t).all()


def test_time_runs_from_data_to_noise():
    diffusion = Diffusion(Uniform(K))
    with pytest.raises(ValueError, match="s=0.8 must precede t=0.5"):
        diffusion.kernel(0.8, 0.5)
    with pytest.raises(ValueError, match="s=0.6 must precede t=0.5"):
        diffusion.kernel(torch.tensor([0.1, 0.6]), 0.5)


@pytest.mark.parametrize("t", [-0.1, 1.01, float("nan")])
def test_times_outside_the_unit_interval_are_refused(t):
    diffusion, x = Diffusion(Uniform(K)), torch.zeros(2, 3, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"from 0 \(data\) to 1 \(noise\)"):
        diffusion.corrupt(x, t)
    with pytest.raises(ValueError, match=r"from 0 \(data\) to 1 \(noise\)"):
        diffusion.corrupt(x, torch.tensor([0.5, t]))


@pytest.mark.parametrize("token", [-1, K])
def test_tokens_outside_the_vocabulary_are_refused(token):
    x = torch.tensor([[0, token]])
    with pytest.raises(
        ValueError, match=rf"must lie in \[0, {K}\), got values from {x.min()} to {x.max()}"
    ):
        Diffusion(Absorbing(K)).corrupt(x, 0.5)


@pytest.mark.parametrize("process", [Absorbing(151_936), Uniform(151_936)], ids=lambda p: p.id)
def test_corrupting_makes_no_distribution_over_a_large_vocabulary(process):
    x_0 = torch.randint(process.vocab_size - 1, (4, 32))
    diffusion = Diffusion(process)
    with LargestTensor() as largest:
        x_t = diffusion.corrupt(x_0, torch.full((4,), 0.5))
    assert largest.numel <= process.vocab_size, "a (B, L, K) tensor would have 128 times as many"
    assert 30 < int((x_t != x_0).sum()) < 98


def test_low_rank_makes_no_square_matrix():
    size, rank = 50_000, 4
    embedding = torch.randn(size, 3, dtype=torch.float64)
    with LargestTensor() as largest:
        diffusion = Diffusion(LowRank.from_embedding(embedding, embedding[:rank]), Linear(0.0, 5.0))
        x_t = diffusion.corrupt(torch.randint(size, (2, 8)), torch.tensor([0.3, 0.9]))
        v = torch.rand(2, 8, size, dtype=torch.float64)
        kernel = diffusion.kernel(0.2, torch.tensor([0.3, 0.9]))
        rows = (
            kernel.inverse().vecmat(kernel.vecmat(v)),
            kernel.rows(x_t),
            diffusion.process.limit(),
        )
    assert largest.numel <= 2 * 8 * size
    torch.testing.assert_close(rows[0], v, rtol=0, atol=1e-9)
    torch.testing.assert_close(rows[1].sum(-1), torch.ones(2, 8, dtype=torch.float64))
    assert float(rows[2].sum()) == pytest.approx(1)
