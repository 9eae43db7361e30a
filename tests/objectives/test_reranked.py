"""Reranked candidates against every list of them, and what a product becomes by them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from enumeration import tabular
from exact_bayes import ExactBayes
from small_laws import FLIPS, MASKS, L, mixture, problem, step_of, table

from hf_ddistill.denoisers import NetworkDenoiser
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.laboratory import ExactProblem, clean_sequences, sequence_numbers
from hf_ddistill.objectives import Reranked
from hf_ddistill.parameterizations import Conditional
from hf_ddistill.processes import Absorbing
from hf_ddistill.shapes import LOG_ZERO

CLEAN = clean_sequences(MASKS, L)
BLANK = int(sequence_numbers(torch.full((1, L), 2), 3)[0])
#: Two completions that exclude each other, and little beside them.
MODES = torch.tensor([0.5, 0.01, 0.01, 0.02, 0.02, 0.01, 0.03, 0.4], dtype=torch.float64)
EVERY = [
    Reranked(2, 1.0, importance, 3, horizon)
    for importance in (True, False)
    for horizon in ("step", "sequence")
]


def log_law(logits):
    """log q (2^L,) of what is drawn in one call, in the order of CLEAN."""
    log_p = logits[..., :2].log_softmax(-1)
    return sum(log_p[i, CLEAN[:, i]] for i in range(L))


def modes():
    return ExactProblem(MODES / MODES.sum(), CLEAN, MASKS)


def over_all_lists(log_q, log_p, group, temperature, importance):
    """The mean of the loss, each list as often as its candidates are drawn: the cross entropy of
    the two laws of a list, up to what does not move."""
    total = 0.0
    for index in torch.cartesian_prod(*[torch.arange(2**L)] * group):
        s, r = log_q[index], log_p[index]
        base = s.detach() if importance else torch.zeros(group)
        weights = [((each - base) / temperature).exp() for each in (r, s)]
        wanted, given = (each / each.sum() for each in weights)
        chance = s.detach().sum().exp()
        total = total - chance * temperature**2 * (wanted * given.log()).sum()
    return total


@pytest.mark.parametrize(
    ("group", "temperature", "importance"), [(2, 1.0, True), (3, 2.0, True), (2, 0.7, False)]
)
def test_gradient_is_not_that_of_all_lists_with_those_that_repeat_themselves(
    group, temperature, importance
):
    student, data = table(MASKS), problem(MASKS, 1)
    log_q = log_law(student.network.logits[BLANK])
    mean = over_all_lists(log_q, data.law.log(), group, temperature, importance)
    (true,) = torch.autograd.grad(mean, student.network.logits)
    step = step_of(MASKS, student, data.denoiser(), rows=20_000)
    loss = Reranked(group, temperature, importance, L)(step)["student"]
    (found,) = torch.autograd.grad(L * loss, student.network.logits)
    assert torch.cosine_similarity(found.flatten(), true.flatten(), 0) > 0.99
    assert float(found.norm() / true.norm()) == pytest.approx(1, abs=0.04)


@pytest.mark.parametrize("objective", EVERY, ids=str)
def test_a_student_of_the_teachers_law_is_moved_by_any_list(objective):
    """Where the law is a product; a teacher of one call takes every law for one."""
    of_products = ExactBayes.independent(Diffusion(Absorbing(3)), L)
    for known, calls in ((of_products, L), (ExactBayes.random(Diffusion(Absorbing(3)), L), 1)):
        log_p = known.conditional(0.5).log().clamp_min(LOG_ZERO)
        student, teacher = tabular(known, log_p), tabular(known, log_p)
        step = step_of(known.diffusion, student, teacher, rows=32, student_steps=2)
        loss = replace(objective, teacher_steps=calls)(step)["student"]
        (gradient,) = torch.autograd.grad(loss, student.network.logits)
        assert float(loss.detach()) < 1e-12 and gradient.abs().max() < 1e-7


def draws(log_q, count=100_000):
    generator = torch.Generator().manual_seed(0)
    return torch.multinomial(log_q.detach().exp(), count, True, generator=generator)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 200.0])
def test_many_candidates_do_not_descend_the_renyi_divergence(temperature):
    """Of order 1 / tau, times tau; at 200 as good as KL(q || p)."""
    logits = table(MASKS).network.logits[BLANK].detach().requires_grad_()
    log_q, log_p, order = log_law(logits), problem(MASKS, 1).law.log(), 1 / temperature
    index = draws(log_q)[None]
    loss = Reranked(temperature=temperature)._disagreement(log_p[index], log_q[index]).sum()
    (found,) = torch.autograd.grad(loss, logits, retain_graph=True)
    if temperature == 1:
        divergence = (log_p.exp() * (log_p - log_q)).sum()
    elif temperature == 200:
        divergence = order * (log_q.exp() * (log_q - log_p)).sum()
    else:
        divergence = (order * log_p + (1 - order) * log_q).logsumexp(0) / (order - 1)
    (true,) = torch.autograd.grad(temperature * divergence, logits)
    torch.testing.assert_close(found, true, atol=0.02 * float(true.abs().max()), rtol=0)


def power_mean(law, temperature, start):
    """q_i(c) ~ (sum over x with x_i = c of prod of the others' q times p(x)^(1 / tau))^tau, from a
    start, by iteration without gradients."""
    q = start.clone()
    for _ in range(300):
        for i in range(L):
            others = torch.stack([q[j, CLEAN[:, j]] for j in range(L) if j != i]).prod(0)
            mean = torch.stack(
                [(others * law ** (1 / temperature))[CLEAN[:, i] == c].sum() for c in (0, 1)]
            )
            q[i] = mean**temperature / (mean**temperature).sum()
    return q


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_lists_as_they_are_drawn_end_elsewhere_than_in_the_power_mean(temperature):
    law = MODES / MODES.sum()
    best = power_mean(law, temperature, torch.tensor([[0.6, 0.4]] * L, dtype=torch.float64))
    assert best[:, 0].min() > 0.9, "it keeps one of two completions that exclude each other"
    slopes = []
    for probs in (best, torch.full_like(best, 0.5)):
        logits = probs.log().requires_grad_()
        log_q = log_law(logits)
        index = draws(log_q)[None]
        objective = Reranked(temperature=temperature, importance=False)
        loss = objective._disagreement(law.log()[index], log_q[index]).sum()
        slopes.append(float(torch.autograd.grad(loss, logits)[0].abs().max()))
    assert slopes[0] < 2e-3 and slopes[1] > 5e-3
    if temperature == 1:  # and of all products it is the one at the least angle to the law
        angles = []
        for probs in (best, *torch.rand(200, L, 2, dtype=torch.float64)):
            q = log_law(probs.log()).exp()
            angles.append(float(law @ q / q.norm()))
        assert angles[0] == max(angles)


@pytest.mark.parametrize(("group", "keeps_both"), [(4, False), (256, True)])
def test_few_candidates_keep_what_many_do(group, keeps_both):
    """At tau = 1 and c = s the optimum of many are the marginals; of few it is one of two."""
    logits = torch.zeros(L, 2, dtype=torch.float64)
    logits[:, 0] = 0.2
    log_p, generator = modes().law.log(), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam([logits.requires_grad_()], 0.1)
    for _ in range(100):
        log_q = log_law(logits)
        index = torch.multinomial(log_q.detach().exp(), 64 * group, True, generator=generator)
        index = index.view(64, group)
        optimizer.zero_grad()
        Reranked(group)._disagreement(log_p[index], log_q[index]).mean().backward()
        optimizer.step()
    first = logits.detach().softmax(-1)[:, 0]
    assert (first.max() < 0.7) if keeps_both else (first.min() > 0.9)


def test_what_the_teacher_says_of_a_candidate_is_not_its_law():
    """In as many calls as tokens; in one it is the product of the marginals."""
    data, student = problem(MASKS, 1), table(MASKS)
    x_0 = CLEAN
    step = step_of(MASKS, student, data.denoiser(), rows=len(CLEAN))
    x_t, t = torch.full_like(x_0, 2), torch.ones(len(x_0), dtype=torch.float64)
    every = torch.ones_like(x_0, dtype=torch.bool)
    for calls in (L, 7):
        found = Reranked(2, teacher_steps=calls)._of_teacher(step, (x_t, t), every, [x_0, x_0])
        torch.testing.assert_close(found, data.law.log()[:, None].expand(-1, 2))
    marginals = torch.stack([data.law[CLEAN[:, i] == 1].sum() for i in range(L)])
    alone = torch.where(CLEAN == 1, marginals, 1 - marginals).log().sum(1)
    found = Reranked(2, teacher_steps=1)._of_teacher(step, (x_t, t), every, [x_0, x_0])
    torch.testing.assert_close(found[:, 0], alone)


def test_a_candidate_of_a_step_has_more_than_the_step_reveals():
    data, student = problem(MASKS, 1), table(MASKS)
    step = step_of(MASKS, student, data.denoiser(), rows=20_000, student_steps=3)
    masked = torch.ones_like(step.x_0, dtype=torch.bool)
    for t, share in ((1.0, 1 / 3), (2 / 3, 1 / 2), (1 / 3, 1.0)):
        times = torch.full((len(masked),), t, dtype=torch.float64)
        decided = Reranked()._decided(step, masked, times)
        assert float(decided.double().mean()) == pytest.approx(share, abs=0.01)
        assert Reranked(horizon="sequence")._decided(step, masked, times).all()


def test_a_tie_to_the_teacher_is_left_out():
    student, data = table(MASKS), problem(MASKS, 1)

    def slope(anchor):
        step = step_of(MASKS, student, data.denoiser())
        loss = Reranked(teacher_steps=L, anchor=anchor)(step)["student"]
        return torch.autograd.grad(loss, student.network.logits)[0][BLANK]

    logits = student.network.logits[BLANK].detach().requires_grad_()
    log_q = logits[..., :2].log_softmax(-1)
    marginals = torch.stack([data.law[CLEAN[:, i] == 1].sum() for i in range(L)])
    log_p = torch.stack([1 - marginals, marginals], -1).log()
    (true,) = torch.autograd.grad((log_q.exp() * (log_q - log_p)).sum() / L, logits)
    torch.testing.assert_close(slope(2.0) - slope(0.0), 2 * true)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Reranked(1), "'reranked': group must be from 2 to 4,096, got 1"),
        (lambda: Reranked(10**11), "group must be from 2 to 4,096, got 100,000,000,000"),
        (lambda: Reranked(temperature=0.0), "temperature must be above 0"),
        (lambda: Reranked(teacher_steps=0), "teacher_steps at least 1, got .*teacher_steps=0"),
        (lambda: Reranked(horizon="call"), "Unknown horizon 'call'; there are: step, sequence"),
        (lambda: Reranked(anchor=-1.0), "'reranked': anchor must be 0 or more, got -1.0"),
        (lambda: Reranked().for_student(table(FLIPS)), "'uniform' has none: take 'law_matching'"),
        (
            lambda: Reranked().for_student(mixture()[0]),
            "mean over all noise.*take 'law_matching' or 'distribution_matching'",
        ),
    ],
)
def test_reranked_takes_what_it_is_not_defined_for(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_a_candidate_that_the_teacher_gives_no_probability_ends_the_training():
    """It is pushed down like any other, the more so the more of its tokens are impossible."""

    def network(x_t, t, at=None):
        log_p = torch.full((*x_t.shape, 3), LOG_ZERO, dtype=torch.float64)
        log_p[..., 0] = 0.0
        return log_p if at is None else log_p.flatten(0, 1)[at]

    teacher = NetworkDenoiser(network, MASKS, Conditional())
    student = table(MASKS)
    loss = Reranked(4, teacher_steps=L)(step_of(MASKS, student, teacher, rows=64))["student"]
    (gradient,) = torch.autograd.grad(loss, student.network.logits)
    assert gradient.isfinite().all() and (gradient[BLANK, :, 0] <= 0).all()


def test_the_loss_of_a_large_temperature_is_not_below_zero():
    torch.manual_seed(0)
    log_p, log_q = torch.randn(2, 4, 8, dtype=torch.float64).unbind(0)
    losses = Reranked(temperature=1e8, importance=False)._disagreement(log_p, log_q)
    gap = log_p - log_q  # as tau grows, tau^2 KL goes to half the variance of the difference
    torch.testing.assert_close(losses, gap.var(1, correction=0) / 2, rtol=1e-4, atol=0)
