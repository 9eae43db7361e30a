"""What every divergence promises: zero at the teacher, never below, one value however summed."""

from __future__ import annotations

import json
import math

import pytest
import torch

from hf_ddistill.divergences import (
    Alpha,
    CrossEntropy,
    Divergence,
    ForwardKL,
    Jeffreys,
    JensenShannon,
    ReverseKL,
    TotalVariation,
)
from hf_ddistill.shapes import LOG_ZERO

K = 300
OTHERS = [JensenShannon(0.1), JensenShannon(0.0), JensenShannon(1.0), Alpha(0.2), Alpha(0.9)]
DIVERGENCES = [Divergence.from_config(name) for name in Divergence.registry] + OTHERS
each_divergence = pytest.mark.parametrize("divergence", DIVERGENCES, ids=repr)


def laws(number=2, rows=4, size=K, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(number, rows, size, generator=generator, dtype=torch.float64)
    return (2 * logits).log_softmax(-1)


def entropy(log_p):
    return -(log_p.exp() * log_p).sum(-1)


@each_divergence
def test_teacher_itself_is_the_minimum(divergence):
    log_p, log_q = laws()
    # Of the family only the cross entropy keeps the teacher's entropy, a constant of the student.
    least = entropy(log_p) if isinstance(divergence, CrossEntropy) else torch.zeros(4).double()
    torch.testing.assert_close(divergence(log_p, log_p), least, rtol=0, atol=1e-12)
    assert (divergence(log_p, log_q) > least + 1e-3).all()
    near = (log_p + 0.01 * torch.randn_like(log_p)).log_softmax(-1)
    assert (divergence(log_p, near) > least).all()


@each_divergence
def test_gradient_vanishes_at_the_teacher(divergence):
    logits = laws()[0].requires_grad_()
    divergence(logits.detach().log_softmax(-1), logits.log_softmax(-1)).sum().backward()
    assert logits.grad.abs().max() < 1e-12


@each_divergence
def test_argument_order_is_teacher_then_student(divergence):
    log_p, log_q = laws()
    symmetric = (Jeffreys, TotalVariation)
    if isinstance(divergence, symmetric) or divergence in (Alpha(0.5), JensenShannon(0.5)):
        torch.testing.assert_close(divergence(log_p, log_q), divergence(log_q, log_p))
    else:
        assert ((divergence(log_p, log_q) - divergence(log_q, log_p)).abs() > 1e-6).all()


@pytest.mark.parametrize(
    ("divergence", "expected"),
    [
        (ForwardKL(), 0.75 * math.log(1.5) + 0.25 * math.log(0.5)),
        (ReverseKL(), 0.5 * math.log(1 / 1.5) + 0.5 * math.log(2)),
        (CrossEntropy(), math.log(2)),
        (Jeffreys(), 0.25 * math.log(1.5) + 0.25 * math.log(2)),
        (TotalVariation(), 0.25),
        (Alpha(0.5), 4 * (1 - math.sqrt(0.375) - math.sqrt(0.125))),
        (
            JensenShannon(0.5),
            0.375 * math.log(0.75 / 0.625)
            + 0.125 * math.log(0.25 / 0.375)
            + 0.25 * math.log(0.5 / 0.625)
            + 0.25 * math.log(0.5 / 0.375),
        ),
    ],
    ids=repr,
)
def test_value_for_three_quarters_against_a_fair_coin(divergence, expected):
    log_p, log_q = torch.tensor([[0.75, 0.25], [0.5, 0.5]], dtype=torch.float64).log()
    assert float(divergence(log_p, log_q)) == pytest.approx(expected, abs=1e-12)


def test_jensen_shannon_ends_are_the_two_kl_divergences():
    log_p, log_q = laws()
    forward, reverse = ForwardKL()(log_p, log_q), ReverseKL()(log_p, log_q)
    torch.testing.assert_close(JensenShannon(0.0)(log_p, log_q), forward)
    torch.testing.assert_close(JensenShannon(1.0)(log_p, log_q), reverse)
    # The ends are the limits of the inside over beta, as TRL has them.
    near = 1e-7
    torch.testing.assert_close(JensenShannon(near)(log_p, log_q) / near, forward, rtol=1e-4, atol=0)
    torch.testing.assert_close(
        JensenShannon(1 - near)(log_p, log_q) / near, reverse, rtol=1e-4, atol=0
    )
    assert (JensenShannon()(log_p, log_q) < math.log(2)).all()


def test_alpha_tends_to_the_two_kl_divergences():
    log_p, log_q = laws()
    near = 1e-6
    forward, reverse = ForwardKL()(log_p, log_q), ReverseKL()(log_p, log_q)
    torch.testing.assert_close(Alpha(1 - near)(log_p, log_q), forward, rtol=1e-4, atol=0)
    torch.testing.assert_close(Alpha(near)(log_p, log_q), reverse, rtol=1e-4, atol=0)


@each_divergence
def test_top_k_of_all_tokens_is_the_whole(divergence):
    log_p, log_q = laws()
    for k in (K, K + 5):
        torch.testing.assert_close(
            divergence.top_k(log_p, log_q, k), divergence(log_p, log_q), rtol=0, atol=1e-9
        )


@each_divergence
def test_top_k_is_the_divergence_of_the_lumped_laws(divergence):
    """The tokens beyond the teacher's likeliest are one token, so a divergence can only lose."""
    log_p, log_q = laws()
    k = 10
    order = log_p.argsort(-1, descending=True)
    sorted_p, sorted_q = (law.exp().gather(-1, order) for law in (log_p, log_q))
    lumped = [
        torch.cat([law[..., :k], law[..., k:].sum(-1, keepdim=True)], -1).log()
        for law in (sorted_p, sorted_q)
    ]
    found = divergence.top_k(log_p, log_q, k)
    torch.testing.assert_close(found, divergence(*lumped), rtol=0, atol=1e-10)
    assert (found <= divergence(log_p, log_q) + 1e-12).all()


@each_divergence
@pytest.mark.parametrize("way", ["whole", "top_k"])
def test_tokens_without_probability_leave_values_and_gradients_finite(divergence, way):
    of = {
        "whole": divergence,
        "top_k": lambda p, q: divergence.top_k(p, q, 3),
    }[way]
    zero, half = LOG_ZERO, math.log(0.5)
    cases = torch.tensor(
        [
            [[half, half, zero, zero], [half, half, zero, zero]],
            [[half, half, zero, zero], [half, zero, half, zero]],
            [[0.0, zero, zero, zero], [zero, zero, zero, 0.0]],
        ]
    )
    for log_p, log_q in cases:
        log_p, log_q = log_p.clone().requires_grad_(), log_q.clone().requires_grad_()
        value = of(log_p, log_q)
        value.backward()
        assert value.isfinite() and value >= -1e-6
        assert log_p.grad.isfinite().all() and log_q.grad.isfinite().all()


def test_masked_out_tokens_count_for_nothing():
    """Laws over 4 tokens, with a fifth that neither holds, as the mask is."""
    log_p, log_q = laws(size=4)
    padded = [torch.cat([law, torch.full((4, 1), LOG_ZERO).double()], -1) for law in (log_p, log_q)]
    for divergence in DIVERGENCES:
        torch.testing.assert_close(divergence(*padded), divergence(log_p, log_q))


@each_divergence
def test_json_keeps_the_divergence(divergence):
    again = Divergence.from_config(json.loads(json.dumps(divergence.to_config())))
    assert again == divergence and hash(again) == hash(divergence)


def test_unknown_divergence_lists_those_that_exist():
    with pytest.raises(ValueError, match="did you mean 'reverse_kl'") as error:
        Divergence.from_config("reversekl")
    assert all(name in str(error.value) for name in Divergence.registry)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: JensenShannon(1.5), r"beta must lie in \[0, 1\] .*got 1.5"),
        (lambda: Alpha(0.0), "strictly between 0 and 1, got 0.0"),
        (lambda: Alpha(1.0), "strictly between"),
    ],
)
def test_settings_without_a_divergence_are_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()
