"""Network output to conditional to score and back, for every process and every parameterisation."""

from __future__ import annotations

import json
import math

import pytest
import torch
from exact_bayes import ExactBayes

from hf_ddistill.denoisers import NetworkDenoiser
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.parameterizations import (
    Conditional,
    GivenOthers,
    Parameterization,
    Prediction,
    Score,
    Shifted,
    Subs,
)
from hf_ddistill.processes import Absorbing, Hybrid, Ordinal, Process, Uniform
from hf_ddistill.schedules import LogLinear
from hf_ddistill.shapes import LOG_ZERO

K = 6
T = torch.tensor([0.3, 0.5], dtype=torch.float64)
each_process = pytest.mark.parametrize("cls", Process.registry.values(), ids=lambda cls: cls.id)
each_parameterization = pytest.mark.parametrize(
    "parameterization",
    [
        *(cls() for cls in Parameterization.registry.values()),
        Score(scale_by_sigma=True),
        GivenOthers(seen=2.0),
    ],
    ids=repr,
)


def random_conditional(diffusion, x_t):
    """Any conditional that the process allows: nothing on noise tokens, certain where x_0 is."""
    p = torch.rand(*x_t.shape, diffusion.vocab_size, dtype=torch.float64) + 0.1
    p[..., list(diffusion.process.noise_tokens)] = 0
    certain = torch.nn.functional.one_hot(x_t, diffusion.vocab_size).double()
    p = torch.where(diffusion.undetermined(x_t)[..., None], p, certain)
    return p / p.sum(-1, keepdim=True)


@each_process
@each_parameterization
def test_output_that_says_a_conditional_is_read_as_it(cls, parameterization):
    diffusion = Diffusion(cls.example(K))
    x_t = torch.arange(K).expand(2, K)
    p = random_conditional(diffusion, x_t)
    arguments = (p.log().clamp_min(LOG_ZERO), diffusion, x_t, T)
    if isinstance(parameterization, Shifted):
        with pytest.raises(ValueError, match="shares position 0"):
            parameterization.from_log_conditional(*arguments)
        return
    output = parameterization.from_log_conditional(*arguments)
    if isinstance(parameterization, Subs) and not diffusion.reveals:
        return  # refused, as the next test holds
    again = parameterization.to_log_conditional(output, diffusion, x_t, T)
    torch.testing.assert_close(again.exp(), p, rtol=0, atol=1e-10)


@each_process
@each_parameterization
def test_any_output_is_read_as_a_distribution_over_data_tokens(cls, parameterization):
    diffusion = Diffusion(cls.example(K))
    x_t, output = torch.randint(K, (2, 5)), torch.randn(2, 5, K)
    if isinstance(parameterization, Subs | Shifted) and not diffusion.reveals:
        with pytest.raises(ValueError, match=f"only Absorbing allows; {cls.id} takes 'condition"):
            parameterization.to_log_conditional(output, diffusion, x_t, T)
        return
    log_p = parameterization.to_log_conditional(output, diffusion, x_t, T)
    assert log_p.dtype == torch.float32 and log_p.isfinite().all()
    torch.testing.assert_close(log_p.exp().sum(-1), torch.ones(2, 5))
    assert (log_p[..., list(diffusion.process.noise_tokens)].exp() == 0).all()


@each_parameterization
def test_json_keeps_the_parameterization(parameterization):
    config = json.loads(json.dumps(parameterization.to_config()))
    assert Parameterization.from_config(config) == parameterization


def test_unknown_parameterization_lists_those_that_exist():
    with pytest.raises(ValueError, match="did you mean 'subs'") as error:
        Parameterization.from_config("sub")
    assert all(name in str(error.value) for name in Parameterization.registry)
    with pytest.raises(ValueError, match="no setting 'scale'; it has: scale_by_sigma"):
        Parameterization.from_config({"type": "score", "scale": True})


def test_subs_carries_unmasked_tokens_over_and_never_predicts_the_mask():
    diffusion, x_t = Diffusion(Absorbing(4)), torch.tensor([[1, 3]])
    output = torch.tensor([[[9.0, 0.0, 0.0, 9.0], [0.0, 1.0, 2.0, 50.0]]])
    log_p = Subs().to_log_conditional(output, diffusion, x_t, T[:1])[0]
    assert log_p[0].exp().tolist() == [0, 1, 0, 0]
    expected = torch.tensor([0.0, 1.0, 2.0]).softmax(-1)
    torch.testing.assert_close(log_p[1].exp(), torch.cat([expected, torch.zeros(1)]))


def test_shifted_reads_the_logits_of_the_position_before():
    diffusion = Diffusion(Absorbing(K))
    output, x_t = torch.randn(2, 4, K), torch.full((2, 4), K - 1)
    shifted = Shifted().to_log_conditional(output, diffusion, x_t, T)
    plain = Subs().to_log_conditional(output, diffusion, x_t, T)
    torch.testing.assert_close(shifted[:, 1:], plain[:, :-1])
    torch.testing.assert_close(shifted[:, 0], plain[:, 0])


@each_process
def test_a_network_that_never_sees_its_own_token_is_read_by_bayes_rule(cls):
    """With independent positions, what the others say of x_0^i is the data's law alone."""
    diffusion = Diffusion(cls.example(4))
    problem = ExactBayes.independent(diffusion, length=2)
    shares = torch.nn.functional.one_hot(problem.clean, 4).double()
    prior = torch.einsum("n,nlv->lv", problem.law, shares).log().clamp_min(LOG_ZERO)
    x_t = problem.states
    output = prior.expand(len(x_t), -1, -1)
    t = torch.full((len(x_t),), 0.4, dtype=torch.float64)
    log_p = GivenOthers().to_log_conditional(output, diffusion, x_t, t)
    torch.testing.assert_close(log_p.exp(), problem.conditional(0.4), rtol=0, atol=1e-10)


def test_what_a_masked_lm_has_seen_of_a_token_counts_twice():
    """An exact network of BERT's training, where as many tokens are kept as replaced by one of n,
    at any other amount of noise."""
    n = 4  # and a mask
    diffusion = Diffusion(Hybrid(n + 1, 0.3, constant=True))
    problem = ExactBayes.independent(diffusion, length=2)
    shares = torch.nn.functional.one_hot(problem.clean, n + 1).double()
    prior, x_t = torch.einsum("n,nlv->lv", problem.law, shares), problem.states
    trained = (
        torch.full((n + 1, n + 1), 0.1 / n, dtype=torch.float64) + 0.1 * torch.eye(n + 1).double()
    )
    trained[:, n] = 0.8
    output = (prior * trained[:, x_t].movedim(0, -1)).log().clamp_min(LOG_ZERO) + 5
    for time in (0.1, 0.9):
        t = torch.full((len(x_t),), time, dtype=torch.float64)
        reading = GivenOthers(seen=math.log(1 + n))
        log_p = reading.to_log_conditional(output, diffusion, x_t, t)
        torch.testing.assert_close(log_p.exp(), problem.conditional(time), rtol=0, atol=1e-10)


def test_score_is_scaled_by_the_noise_as_in_sedd():
    diffusion = Diffusion(Absorbing(K), LogLinear(0.1))
    x_t, output = torch.full((2, 3), K - 1), torch.randn(2, 3, K, dtype=torch.float64)
    log_score = Score(scale_by_sigma=True).log_score(output, diffusion, x_t, T)
    sigma = diffusion.schedule.sigma(T)
    expected = output - (torch.expm1(sigma) * (K - 1)).log()[:, None, None]
    torch.testing.assert_close(log_score[..., :-1], expected[..., :-1])
    assert (log_score[..., -1] == 0).all()
    assert torch.equal(Score().log_score(output, diffusion, x_t, T)[..., :-1], output[..., :-1])


@pytest.mark.parametrize("process", [Ordinal(64), Uniform(4)], ids=lambda process: process.id)
def test_conditional_that_cannot_be_recovered_is_not_made_up(process):
    diffusion = Diffusion(process, LogLinear(1e-12))
    x_t = torch.zeros(1, 2, dtype=torch.int64)
    score = torch.full((1, 2, process.vocab_size), float("nan"), dtype=torch.float64)
    with pytest.raises(ValueError, match="cannot be recovered .* `hf-ddistill diagnose`"):
        Prediction.from_score(score, diffusion, x_t, 0.5)


def test_kernel_that_cannot_be_inverted_is_named():
    """Ordinal's fastest mode at t = 1 is exp(-1,600 sigma): 0 in float64."""
    diffusion = Diffusion(Ordinal(64))
    score = torch.ones(1, 2, 64, dtype=torch.float64)
    with pytest.raises(ValueError, match="the kernel at this much noise cannot be inverted"):
        Prediction.from_score(score, diffusion, torch.zeros(1, 2, dtype=torch.int64), 1.0)


@each_process
def test_ratios_that_belong_to_no_law_give_a_distribution(cls):
    diffusion, x_t = Diffusion(cls.example(K)), torch.randint(K, (2, 5))
    score = torch.rand(2, 5, K, dtype=torch.float64).scatter(-1, x_t[..., None], 1.0)
    p = Prediction.from_score(score, diffusion, x_t, T).log_conditional.exp()
    assert p.min() >= 0
    torch.testing.assert_close(p.sum(-1), torch.ones(2, 5, dtype=torch.float64))


@each_process
def test_gradient_through_the_score_is_finite(cls):
    """Where a token cannot have become x_t, 1 / P_0t is infinite: it must reach no gradient."""
    diffusion, x_t = Diffusion(cls.example(K)), torch.arange(K).expand(2, K)
    logits = random_conditional(diffusion, x_t).log().clamp_min(LOG_ZERO).requires_grad_()
    Prediction(logits.log_softmax(-1)).score(diffusion, x_t, T).log1p().sum().backward()
    assert logits.grad.isfinite().all()


@each_process
def test_gradient_of_a_score_network_is_finite(cls):
    """A token that is impossible has the logarithm of 0: it must reach no gradient (NaN), or no
    SEDD network can be distilled."""
    diffusion, x_t = Diffusion(cls.example(K)), torch.arange(K).expand(2, K)
    output = torch.randn(2, K, K, dtype=torch.float64, requires_grad=True)

    def probabilities(output):
        return Score().to_log_conditional(output, diffusion, x_t, T).exp()

    assert (probabilities(output) == 0).any() or not diffusion.process.noise_tokens
    assert torch.autograd.gradcheck(probabilities, (output,))


@each_process
def test_score_of_the_present_token_is_one(cls):
    diffusion, x_t = Diffusion(cls.example(K)), torch.arange(K).expand(2, K)
    prediction = Prediction(random_conditional(diffusion, x_t).log().clamp_min(LOG_ZERO))
    score = prediction.score(diffusion, x_t, T)
    torch.testing.assert_close(
        score.gather(-1, x_t[..., None]), torch.ones(2, K, 1, dtype=torch.float64)
    )


@each_process
def test_networks_of_either_kind_are_one_denoiser(cls):
    diffusion = Diffusion(cls.example(4))
    problem = ExactBayes.random(diffusion, length=2)
    expected = problem.conditional(0.4)
    for parameterization in (Conditional(), GivenOthers(), Score()):
        denoiser = problem.denoiser(parameterization)
        p = denoiser(problem.states, 0.4).log_conditional.exp()
        torch.testing.assert_close(p, expected, rtol=0, atol=1e-10)


def network_of_tokens(x_t, t, at=None, offset=None):
    """Logits that depend on the row, the position, its token and the time."""
    place = torch.arange(x_t.shape[1]) + 10 * torch.arange(x_t.shape[0])[:, None]
    logits = torch.sin(torch.arange(K) * (x_t + place + 1)[..., None] + t[:, None, None])
    logits = logits if offset is None else logits + offset
    return logits if at is None else logits.flatten(0, 1)[at]


@each_parameterization
def test_prediction_at_some_positions_is_the_one_among_all(parameterization):
    denoiser = NetworkDenoiser(network_of_tokens, Diffusion(Absorbing(K)), parameterization)
    x_t = torch.tensor([[5, 5, 1, 5], [2, 5, 5, 0], [5, 3, 5, 5]])
    t, offset = torch.tensor([0.2, 0.5, 0.9]), torch.randn(K)
    where = torch.tensor([[1, 1, 0, 1], [0, 1, 1, 0], [0, 1, 0, 1]], dtype=torch.bool)
    whole = denoiser(x_t, t, offset=offset).log_conditional
    at = denoiser.at(x_t, t, where, offset=offset).log_conditional
    assert at.shape == (7, 1, K)
    torch.testing.assert_close(at[:, 0], whole[where])


def test_denoiser_takes_one_time_for_all_rows_and_half_precision_logits():
    diffusion, x_t = Diffusion(Absorbing(K)), torch.full((2, 3), K - 1)
    denoiser = NetworkDenoiser(lambda x, t: network_of_tokens(x, t).bfloat16(), diffusion)
    one, each = denoiser(x_t, 0.3), denoiser(x_t, torch.full((2,), 0.3, dtype=torch.float64))
    assert one.log_conditional.dtype == torch.float32
    assert torch.equal(one.log_conditional, each.log_conditional)


def test_network_over_another_vocabulary_is_refused():
    denoiser = NetworkDenoiser(network_of_tokens, Diffusion(Absorbing(K + 1)))
    with pytest.raises(ValueError, match=r"gives \(2, 3, 6\), .* vocab_size=7: \(2, 3, 7\)"):
        denoiser(torch.full((2, 3), K), 0.5)
