"""SDTT: the target of several teacher steps, by the law of a sampler that makes them."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from enumeration import Table, _At, oracle, predicted, tabular, training_step, transition
from exact_bayes import ExactBayes

from hf_ddistill.denoisers import NetworkDenoiser
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.objectives import SDTT
from hf_ddistill.processes import Absorbing, Uniform
from hf_ddistill.samplers import Ancestral
from hf_ddistill.shapes import LOG_ZERO

#: The student's one call, from all masks: what every row looks at.
S, T, ROWS = 5e-4, 1.0, 20_000


def small():
    return ExactBayes.random(Diffusion(Absorbing(4)), 2, seed=1)


def gradient(problem, student, objective, rows=ROWS, seed=0):
    step = training_step(problem, student, rows, seed)
    (grad,) = torch.autograd.grad(objective(step)["student"], student.network.logits)
    return grad


def at_start(problem, log_p):
    """A table whose row at all masks is the given one (L, K)."""
    tables = problem.conditional(0.5).log().clamp_min(LOG_ZERO)
    tables[-1] = log_p
    return tabular(problem, tables)


def two_step_targets(problem):
    """For each state between two equal steps from all masks: its probability, and log p (L, K) that
    SDTT's target has there: of a token that is shown the law at the start, else that of the state.
    """
    teacher = oracle(problem)
    middle = T + (S - T) / 2
    first = predicted(problem, teacher, T)[-1]
    prediction = teacher(problem.states, torch.full((len(problem.states),), T).double())
    step = Ancestral().rule(prediction, problem.diffusion, problem.states, middle, T)
    chance = transition(problem, step)[-1]
    masked = problem.diffusion.undetermined(problem.states)[..., None]
    return chance, torch.where(masked, predicted(problem, teacher, middle), first[None])


def test_target_is_not_the_law_of_each_token_in_two_steps_of_the_sampler():
    """Marginals of: a step to the middle, and there all that is left at once."""
    problem = small()
    chance, target = two_step_targets(problem)
    drawn = torch.einsum("n,nlk->lk", chance, target)
    to_data = predicted(problem, oracle(problem), T + (S - T) / 2)
    marginals = torch.einsum("n,nlk->lk", chance, to_data)
    torch.testing.assert_close(drawn, marginals, atol=1e-12, rtol=0)
    student = at_start(problem, torch.zeros(2, 4))
    step = training_step(problem, student, ROWS)
    x_t = torch.full_like(step.x_0, 3)
    here = step.look(student, x_t, torch.ones(ROWS).double())
    found = SDTT().target(step, here, (x_t, torch.full((ROWS,), S).double()))
    found = found.exp().view(ROWS, 2, 4)
    error = found.std(0) / ROWS**0.5 + 1e-9
    assert ((found.mean(0) - marginals).abs() < 4 * error).all()


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl"])
def test_two_steps_in_one_do_not_have_their_optimum(divergence):
    """The mean of the targets by the forward KL, their geometric mean by the reverse KL."""
    problem = small()
    chance, target = two_step_targets(problem)
    mean = torch.einsum("n,nlk->lk", chance, target)
    logs = target.log().clamp_min(LOG_ZERO)
    geometric = torch.einsum("n,nlk->lk", chance, logs).log_softmax(-1)
    best, other = mean.log().clamp_min(LOG_ZERO), geometric.clamp_min(LOG_ZERO)
    if divergence == "reverse_kl":
        best, other = other, best
    objective = SDTT(divergence, times=_At(S, T))
    size = [
        float(gradient(problem, at_start(problem, log_p), objective).abs().max())
        for log_p in (best, other)
    ]
    assert size[0] < 0.25 * size[1]
    # Sharper: what the reverse KL takes from the entropy of each token.
    entropies = [torch.special.entr(p).sum() for p in (geometric.exp(), mean)]
    assert entropies[0] < entropies[1] - 1e-3


def test_one_substep_moves_a_student_that_is_its_teacher():
    problem = small()
    student = at_start(problem, problem.conditional(T)[-1].log().clamp_min(LOG_ZERO))
    still = SDTT(substeps=1)
    assert gradient(problem, student, still, 64).abs().max() < 1e-12
    assert gradient(problem, tabular(problem), still, 64).abs().max() > 1e-3


@dataclass
class Watched:
    """A network that keeps the times it is called with."""

    table: Table
    times: list

    def __call__(self, x_t, t, at=None):
        self.times.append(t)
        return self.table(x_t, t, at)


@pytest.mark.parametrize("substeps", [2, 4])
def test_teacher_is_asked_outside_the_step(substeps):
    """At t, and after each m-th of the step: not at the times of the authors' code."""
    problem = small()
    network = Watched(Table(problem), [])
    teacher = NetworkDenoiser(network, problem.diffusion, oracle(problem).parameterization)
    step = training_step(problem, tabular(problem), 16, student_steps=4)
    step.peers["teacher"] = teacher
    SDTT(substeps=substeps)(step)
    first, second = network.times[:2]
    assert len(network.times) == substeps
    torch.testing.assert_close(
        first - second, torch.full_like(first, 1 / 4 / substeps), atol=2e-3, rtol=0
    )
    assert float(first.min()) >= 1 / 4


def test_sdtt_takes_a_process_without_masks_or_no_substep():
    problem = ExactBayes.random(Diffusion(Uniform(3)), 2, seed=0)
    with pytest.raises(ValueError, match="'uniform' has none: take 'dcd'"):
        SDTT().for_student(tabular(problem))
    with pytest.raises(ValueError, match="substeps must be at least 1"):
        SDTT(substeps=0)
