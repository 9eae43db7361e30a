"""Gradients of objectives of laws against those of the divergences that they stand for.

With masks the divergences are sums over the sets V of tokens that a state shows, of KL(V), that of
the laws of these tokens; a time t shows each with alpha_t = 1 - t.
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from small_laws import FLIPS, MASKS, L, mixture, problem, step_of, table

from hf_ddistill.couplings import roll_out
from hf_ddistill.laboratory import (
    ExactProblem,
    clean_sequences,
    kl_divergence,
    sequence_numbers,
)
from hf_ddistill.objectives import (
    DiDi,
    DistributionMatching,
    LawMatching,
    ReinforceDMD,
    SimplexDMD,
)

ROWS = 60_000


def of_sets(law, other, weight):
    """sum over V of weight(|V|) KL(V), from the laws of whole sequences."""
    total = 0.0
    for size in range(1, L + 1):
        for visible in itertools.combinations(range(L), size):
            hidden = [i for i in range(L) if i not in visible]
            one, two = (
                each.view((2,) * L).sum(hidden).flatten() if hidden else each
                for each in (law, other)
            )
            total = total + weight(size) * kl_divergence(one, two)
    return total


def beta(a, b):
    return math.gamma(a) * math.gamma(b) / math.gamma(a + b)


#: Objectives of one call, and what KL(V) counts in the divergence of each: the integral over t of
#: w(t) (1 - t)^m t^(L - m) for m shown tokens.
OF_MASKS = {
    # w = t / (1 - t), 1 / (1 - t) and 1.
    "d_mmd": (
        DistributionMatching(start="noise", renoise="forward"),
        lambda m: beta(m, L - m + 2),
    ),
    "idlm": (DistributionMatching("idlm"), lambda m: beta(m, L - m + 1)),
    "simplex_dmd": (SimplexDMD(times="grid"), lambda m: beta(m + 1, L - m + 1)),
    # Each number m of shown tokens alike, in proportion to 1 / m.
    "law_matching": (LawMatching(horizon="call"), lambda m: 1 / (m * math.comb(L, m))),
    # Each number of hidden tokens alike, and each hidden token alike.
    "bridge": (LawMatching(horizon="bridge"), lambda m: 1 / (L * math.comb(L, m - 1))),
}


def compare(found, true, direction=0.98, size=0.06):
    assert torch.cosine_similarity(found.flatten(), true.flatten(), 0) > direction
    assert float(L * found.norm() / true.norm()) == pytest.approx(1, abs=size)


@pytest.mark.parametrize("name", OF_MASKS)
def test_gradient_is_not_that_of_the_divergence_that_is_stated(name):
    (student, law), teacher = mixture(), problem(MASKS, 1)
    objective, weight = OF_MASKS[name]
    divergence = of_sets(law, teacher.law, weight)
    (true,) = torch.autograd.grad(divergence, student.network.logits)
    exact = ExactProblem(law.detach(), teacher.sequences, MASKS)
    step = step_of(MASKS, student, teacher.denoiser(), exact.denoiser(), ROWS)
    (found,) = torch.autograd.grad(objective(step)["student"], student.network.logits)
    compare(found, true)


class FirstOfTwo(LawMatching):
    """Each row stops at the first of two calls, behind which half of the tokens are shown."""

    id = "first_of_two"

    def _rollout(self, step):
        rows = len(step.x_0)
        return roll_out(step, torch.full((rows,), 2), torch.zeros(rows, dtype=torch.int64))


@pytest.mark.parametrize("horizon", ["step", "bridge"])
def test_a_step_is_answerable_for_more_than_the_next_call_is_shown(horizon):
    """Of a step KL(V) counts as in law matching, times the chance that so many tokens are shown; of
    a bridge by how often a state on the way hides just one token of V."""
    (student, law), teacher = mixture(), problem(MASKS, 1)
    shown = [math.comb(L, n) / 2**L for n in range(L + 1)]

    def weight(m):
        if horizon == "step":
            return math.fsum(shown[m:]) / (m * math.comb(L, m))
        return math.fsum(shown[n] / n for n in range(m, L + 1)) / math.comb(L, m - 1)

    divergence = of_sets(law, teacher.law, weight)
    (true,) = torch.autograd.grad(divergence, student.network.logits)
    exact = ExactProblem(law.detach(), teacher.sequences, MASKS)
    step = step_of(MASKS, student, teacher.denoiser(), exact.denoiser(), ROWS, student_steps=2)
    objective = FirstOfTwo(horizon=horizon, steps="only")
    (found,) = torch.autograd.grad(objective(step)["student"], student.network.logits)
    compare(found, true)


def noised(law, t):
    """The law of what independent flips make of sequences, (2^L,)."""
    kernel = FLIPS.kernel(0.0, t).dense()
    law = law.view((2,) * L)
    for _ in range(L):  # the first position goes to the end each time
        law = torch.tensordot(law, kernel, ([0], [0]))
    return law.flatten()


def table_of_flips():
    """A student of uniform noise, and the law (2^L,) of what it draws in one call."""
    student, clean = table(FLIPS), clean_sequences(FLIPS, L)
    log_p = student.network.logits.log_softmax(-1)
    each = torch.stack([log_p[:, i, clean[:, i]] for i in range(L)]).sum(0).exp()
    return student, each.mean(0)


def test_concrete_scores_are_no_gradient_where_nothing_is_masked():
    (student, law), teacher = table_of_flips(), problem(FLIPS, 1)
    times = (torch.arange(200).double() + 0.5) / 200
    divergence = sum(kl_divergence(noised(law, t), noised(teacher.law, t)) for t in times) / 200
    (true,) = torch.autograd.grad(divergence, student.network.logits)
    exact = ExactProblem(law.detach(), teacher.sequences, FLIPS)
    step = step_of(FLIPS, student, teacher.denoiser(), exact.denoiser(), 20_000)
    (found,) = torch.autograd.grad(
        SimplexDMD(times="grid")(step)["student"], student.network.logits
    )
    compare(found, true)


def test_the_bounds_of_states_that_move_are_not_the_terminal_divergence():
    """IDLM without masks: with exact networks the difference of the bounds is KL(law || teacher),
    and so is the gradient, that of the states included."""
    (student, law), teacher = table_of_flips(), problem(FLIPS, 1)
    (true,) = torch.autograd.grad(kl_divergence(law, teacher.law), student.network.logits)
    exact = ExactProblem(law.detach(), teacher.sequences, FLIPS)
    step = step_of(FLIPS, student, teacher.denoiser(), exact.denoiser(), 20_000)
    loss = DistributionMatching("idlm")(step)["student"]
    (found,) = torch.autograd.grad(loss, student.network.logits)
    compare(found, true)


class Oracle(torch.nn.Module):
    """log-odds that are exact: log p_t(z) of data less that of the student's law, by sums over all
    clean sequences."""

    def __init__(self, data, law, diffusion=MASKS):
        super().__init__()
        self.data, self.law, self.diffusion = data, law, diffusion
        self.clean = clean_sequences(diffusion, L)

    def forward(self, z, times, attend=None):
        # What a mask has cost is the same for both, whatever the time.
        fits = ((z[:, None] == self.clean) | (z[:, None] == 2)).all(-1).double()
        return (fits @ self.data).log() - (fits @ self.law).log()


def drawn_in_two_calls(student):
    """The law of x_0 where each position is revealed at a first call with the chance 1 - tau, tau
    uniform, and the others at a second."""
    clean, log_p = clean_sequences(MASKS, L), student.network.logits[..., :2].log_softmax(-1)
    law = torch.zeros(len(clean), dtype=torch.float64)
    first = log_p[sequence_numbers(torch.full((1, L), 2), 3)[0]]
    for revealed in itertools.product([False, True], repeat=L):
        now = torch.tensor(revealed)
        middle = torch.where(now, clean, 2)
        second = log_p[sequence_numbers(middle, 3)]
        of = torch.where(
            now,
            *(
                each.expand(len(clean), L, 2).gather(-1, clean[..., None])[..., 0]
                for each in (first, second)
            ),
        )
        chance = beta(sum(revealed) + 1, L - sum(revealed) + 1)
        law = law + chance * of.sum(1).exp()
    return law


def step_with(student, data, law, rows):
    """A step whose x_0 are draws of the data, with an exact discriminator."""
    generator = torch.Generator().manual_seed(1)
    x_0 = data.sequences[torch.multinomial(data.law, rows, True, generator=generator)]
    step = step_of(MASKS, student, rows=rows)
    peers = {"teacher": data.denoiser(), "discriminator": Oracle(data.law, law.detach())}
    return type(step)(x_0, MASKS, student, peers, generator=generator)


@pytest.mark.parametrize("name", ["reinforce_dmd", "didi in one call", "didi"])
def test_policy_gradient_of_a_group_is_biased(name):
    """With an exact discriminator: the gradient of the integral of KL(p_t || data's) over t."""
    student, law = mixture()
    if name == "didi":
        student = table(MASKS)
        law = drawn_in_two_calls(student)
    objective = {
        "reinforce_dmd": ReinforceDMD(times="grid", anchor=0.0),
        "didi in one call": DiDi(standardise=False, decomposed=False, anchor=0.0),
        "didi": DiDi(standardise=False, anchor=0.0),
    }[name]
    data = problem(MASKS, 1)
    assert float(law.detach().sum()) == pytest.approx(1)
    divergence = of_sets(law, data.law, lambda m: beta(m + 1, L - m + 1))
    (true,) = torch.autograd.grad(divergence, student.network.logits)
    step = step_with(student, data, law, ROWS)
    (found,) = torch.autograd.grad(objective(step)["student"], student.network.logits)
    compare(found, true)


def test_rewards_over_their_spread_turn_the_gradient_round():
    """DiDi's own normalisation is biased, and points the same way."""
    student = table(MASKS)
    data, law = problem(MASKS, 1), drawn_in_two_calls(student)
    step = step_with(student, data, law, 20_000)
    found = []
    for objective in (DiDi(anchor=0.0), DiDi(anchor=0.0, standardise=False)):
        step = step_with(student, data, law, 20_000)
        found += torch.autograd.grad(objective(step)["student"], student.network.logits)
    assert 0.8 < torch.cosine_similarity(*(each.flatten() for each in found), 0) < 0.9999
