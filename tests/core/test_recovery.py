"""p(x_0 | x_t) from exact ratios, up to t = 1: right or refused, and never refused if right.

The truth is Bayes' rule by hand for laws p(x_0) drawn evenly from the simplex, one position each.
"""

from __future__ import annotations

import pytest
import torch
from core_cases import PROCESSES, knots
from largest_tensor import LargestTensor

from hf_ddistill.denoisers import NetworkDenoiser
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.linalg import categorical
from hf_ddistill.parameterizations import Prediction, Score, recover
from hf_ddistill.parameterizations.prediction import RECOVERABLE
from hf_ddistill.processes import Absorbing, General, Hybrid, Kronecker, Ordinal, Uniform
from hf_ddistill.schedules import Geometric, Linear, LogLinear
from hf_ddistill.shapes import LOG_ZERO

TIMES = (1e-6, 0.05, 0.4, 0.75, 0.97, 1.0)
SCHEDULES = (LogLinear(), Geometric(), Linear())


def exact(diffusion, t, rows=100):
    """x_t (N, 1), and p(x_0 | x_t) and the ratios p_t(y) / p_t(x_t) there, (N, 1, K)."""
    law = -torch.rand(rows, 1, diffusion.vocab_size, dtype=torch.float64).log()
    law[..., list(diffusion.process.noise_tokens)] = 0
    law = law / law.sum(-1, keepdim=True)
    kernel = diffusion.kernel(0.0, t).dense().clamp_min(0)
    marginal = law @ kernel
    x_t = categorical(marginal)
    joint = law * kernel.mT[x_t]
    ratios = marginal / marginal.gather(-1, x_t[..., None])
    return x_t, joint / joint.sum(-1, keepdim=True), ratios


def error(found, truth):
    return float((found.double() - truth).abs().sum(-1).max() / 2)


def formula(ratios, diffusion, x_t, t):
    """Eq. 8, clamped and normalised, whatever comes of it."""
    try:
        raw = recover(ratios, diffusion, x_t, t).double().clamp_min(0)
    except torch.linalg.LinAlgError:
        return torch.full(ratios.shape, torch.inf, dtype=torch.float64)
    raw[..., list(diffusion.process.noise_tokens)] = 0
    return torch.nan_to_num(raw / raw.sum(-1, keepdim=True), nan=torch.inf)


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize(
    "dtype", [torch.float64, pytest.param(torch.float32, marks=pytest.mark.slow)], ids=str
)
def test_a_recovered_conditional_is_right_or_refused_and_refused_only_if_it_is_not(name, dtype):
    for schedule in SCHEDULES:
        diffusion = Diffusion(PROCESSES[name], schedule)
        for t in TIMES:
            x_t, truth, ratios = exact(diffusion, t)
            ratios = ratios.to(dtype)
            off = error(formula(ratios, diffusion, x_t, t), truth)
            try:
                found = Prediction.from_score(ratios, diffusion, x_t, t).log_conditional.exp()
            except ValueError as refusal:
                assert "cannot be recovered from these ratios" in str(refusal)
                assert off > RECOVERABLE / 50, (schedule, t)
            else:
                # What the formula rounds itself comes on top of what the ratios are off.
                assert error(found, truth) <= 2 * RECOVERABLE, (schedule, t)


@pytest.mark.parametrize(
    ("process", "schedule"),
    [
        (Ordinal(5), LogLinear()),
        (General.example(5), LogLinear()),
        (Kronecker.example(6), Geometric()),
        (knots(), Geometric()),
        (Hybrid(5, uniform=0.3, constant=True), Geometric()),
    ],
    ids=lambda value: value.id,
)
def test_a_conditional_that_only_rounding_decides_is_refused(process, schedule):
    """These came back without a word, off by .5 to .98 (or as an error of LAPACK's)."""
    diffusion = Diffusion(process, schedule)
    x_t, truth, ratios = exact(diffusion, 1.0)
    assert error(formula(ratios, diffusion, x_t, 1.0), truth) > 0.3
    with pytest.raises(ValueError, match="at 100 of 100 positions: the kernel .* in torch.float64"):
        Prediction.from_score(ratios, diffusion, x_t, 1.0)


@pytest.mark.parametrize("process", [Absorbing(5), Absorbing(5, 0)], ids=repr)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_masks_are_recovered_however_little_of_the_data_is_left(process, dtype):
    """The condition number is 1 / alpha = 1e26, and no digit is lost: no false alarm."""
    diffusion = Diffusion(process, Geometric(1e-4, 60.0))
    x_t, truth, ratios = exact(diffusion, 1.0)
    found = Prediction.from_score(ratios.to(dtype), diffusion, x_t, 1.0).log_conditional.exp()
    assert error(found, truth) < 4 * torch.finfo(dtype).eps


def test_one_position_that_cannot_be_recovered_is_counted():
    """Rows have their own times: the early one is well conditioned, the late one is not."""
    diffusion = Diffusion(Ordinal(5))
    ratios = torch.cat([exact(diffusion, t, 1)[2] for t in (0.1, 1.0)])
    x_t = (ratios == 1).long().argmax(-1)
    with pytest.raises(ValueError, match="at 1 of 2 positions"):
        Prediction.from_score(ratios, diffusion, x_t, torch.tensor([0.1, 1.0]))


def test_the_gradient_through_recovery_is_the_one_without_the_check():
    diffusion, t = Diffusion(Uniform(4)), 0.5
    x_t, truth, ratios = exact(diffusion, t, 3)
    given = [ratios.clone().requires_grad_() for _ in range(2)]
    Prediction.from_score(given[0], diffusion, x_t, t).log_conditional.exp()[
        ..., 0
    ].sum().backward()
    raw = recover(given[1], diffusion, x_t, t)
    (raw / raw.sum(-1, keepdim=True))[..., 0].sum().backward()
    torch.testing.assert_close(given[0].grad, given[1].grad)


def test_a_network_of_ratios_is_refused_where_they_say_nothing():
    """Not sampled from: under Ordinal the ratios of any law are those of the limit law at t = 1."""
    denoiser = NetworkDenoiser(
        lambda x, t: torch.zeros(*x.shape, 8), Diffusion(Ordinal(8)), Score()
    )
    x = torch.zeros(1, 2, dtype=torch.int64)
    with pytest.raises(ValueError, match="`hf-ddistill diagnose` shows up to which t it can"):
        denoiser(x, 1.0)
    assert denoiser(x, 0.05).log_conditional.isfinite().all()


@pytest.mark.parametrize("cls", [Absorbing, Hybrid, Uniform], ids=lambda cls: cls.id)
def test_recovery_over_a_large_vocabulary_makes_no_matrix(cls):
    diffusion = Diffusion(cls(151_936))
    size = diffusion.vocab_size
    x_t = torch.tensor([[size - 1, 5]])
    p = torch.rand(1, 2, size, dtype=torch.float64)
    p[..., list(diffusion.process.noise_tokens)] = 0
    certain = torch.nn.functional.one_hot(x_t, size).double()
    p = torch.where(diffusion.undetermined(x_t)[..., None], p, certain)
    p = p / p.sum(-1, keepdim=True)
    with LargestTensor() as largest:
        score = Prediction(p.log().clamp_min(LOG_ZERO)).score(diffusion, x_t, 0.9)
        found = Prediction.from_score(score, diffusion, x_t, 0.9).log_conditional.exp()
    assert largest.numel <= 2 * p.numel()  # Hybrid's operators have rank 2
    torch.testing.assert_close(found, p, rtol=0, atol=1e-10)
