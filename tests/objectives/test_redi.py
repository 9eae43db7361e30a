"""ReDi: what a coupling of noise and samples is worth, by enumeration."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from enumeration import tabular, training_step, transition
from exact_bayes import ExactBayes, total_variation
from torch.nn.functional import one_hot

from hf_ddistill.denoisers import NetworkDenoiser
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.objectives import ReDi
from hf_ddistill.parameterizations import Conditional
from hf_ddistill.processes import Absorbing, Uniform
from hf_ddistill.samplers import FlowMatching, step_grid
from hf_ddistill.schedules import LogLinear

STEPS = 8


def small():
    """Three bits that hang together, alpha = 1 - t."""
    problem = ExactBayes.random(Diffusion(Uniform(2), LogLinear(1e-9)), 3, seed=4)
    law = problem.law**3
    return replace(problem, law=law / law.sum())


def between(problem, pairs, t):
    """(the law of x_t, p(x_0^i | x_t)) of x_t between x_0 and x_1; pairs (x_1, x_0) of states."""
    alpha = float(problem.diffusion.schedule.alpha(torch.tensor(t)))
    seen = one_hot(problem.states, problem.diffusion.vocab_size).double()
    # (x_1, x_0, L, K), and of whole states (x_1, x_0, x_t)
    step = alpha * seen[None] + (1 - alpha) * seen[:, None]
    whole = torch.ones(len(pairs), len(pairs), len(pairs), dtype=torch.float64)
    for i in range(problem.clean.shape[1]):
        whole = whole * step[:, :, i, problem.states[:, i]]
    joint = torch.einsum("ba,bax->ax", pairs, whole)
    at = joint.sum(0)
    return at, torch.einsum("ax,alk->xlk", joint, seen) / at[:, None, None]


def rectified(problem, pairs, steps=STEPS):
    """The pairs that a student makes, in so many calls, which knows the conditionals of others."""
    grid, law = step_grid(steps), torch.eye(len(pairs), dtype=torch.float64)
    for t, s in zip(grid[:-1], grid[1:], strict=True):
        _, conditional = between(problem, pairs, t)
        if s:
            student = NetworkDenoiser(
                lambda x, _, p=conditional: p[problem.index(x)].log(),
                problem.diffusion,
                Conditional(),
            )
            prediction = student(problem.states, t)
            conditional = FlowMatching(integrated=True).rule(
                prediction, problem.diffusion, problem.states, s, t
            )
        law = law @ transition(problem, conditional)
    return law / len(pairs)


def total_correlation(problem, pairs):
    """TC(x_0 | x_1), exactly."""
    seen = one_hot(problem.states, problem.diffusion.vocab_size).double()
    start = pairs.sum(1, keepdim=True)
    given = pairs / start
    marginals = torch.einsum("ba,alk->blk", given, seen)
    each = torch.special.entr(marginals).sum((1, 2)) - torch.special.entr(given).sum(1)
    return float((start[:, 0] * each).sum())


def independent(problem):
    return problem.data[None].expand(len(problem.states), -1) / len(problem.states)


def test_rounds_do_not_lower_the_conditional_total_correlation():
    """And with it the error of one call, which draws all tokens of x_0 given x_1 independently."""
    problem = small()
    pairs, found, errors = independent(problem), [], []
    for _ in range(3):
        found.append(total_correlation(problem, pairs))
        errors.append(total_variation(rectified(problem, pairs, 1).sum(0), problem.data))
        pairs = rectified(problem, pairs)
    assert found[0] > 1.3 * found[1] > 1.3 * found[2]
    assert errors[0] > 1.1 * errors[1] > 1.1 * errors[2]


class Offset(torch.nn.Module):
    """Conditionals of a coupling at each time, and one free logit for each state beside them."""

    def __init__(self, problem, pairs):
        super().__init__()
        self.problem, self.pairs = problem, pairs
        self.logits = torch.nn.Parameter(torch.zeros(len(problem.states), 3, 2).double())

    def forward(self, x_t, t, at=None):
        states, alpha = self.problem.states, (1 - t).view(-1, 1, 1, 1)
        same = (x_t[:, None] == states[None]).double()
        at_x_t = (alpha * same[:, None] + (1 - alpha) * same[:, :, None]).prod(-1)
        joint = (self.pairs * at_x_t).sum(1)
        known = torch.einsum(
            "ba,alk->blk", joint / joint.sum(1, keepdim=True), one_hot(states).double()
        )
        output = known.log() + self.logits[self.problem.index(x_t)]
        return output if at is None else output.flatten(0, 1)[at]


def test_student_of_the_rectified_coupling_meets_a_gradient():
    problem, sizes = small(), []
    coupled = rectified(problem, independent(problem))
    for pairs in (coupled, independent(problem)):
        student = NetworkDenoiser(Offset(problem, pairs), problem.diffusion, Conditional())
        loss = ReDi(STEPS, looks=1)(training_step(problem, student, 20_000))["student"]
        (grad,) = torch.autograd.grad(loss, student.network.logits)
        sizes.append(float(grad.abs().max()))
    assert sizes[0] < 0.2 * sizes[1]


def test_pairs_are_not_the_sampler_s_own():
    """Counts of (x_1, x_0) against the law of the teacher's sampler from each start."""
    problem, rows = small(), 20_000
    step = training_step(problem, tabular(problem), rows)
    x_0, x_1 = ReDi(STEPS).pairs(step)
    size = len(problem.states)
    counts = torch.bincount(problem.index(x_1) * size + problem.index(x_0), minlength=size**2)
    expected = rows * rectified(problem, independent(problem)).flatten()
    assert float(((counts - expected) ** 2 / expected).sum()) < size**2 + 5 * (2 * size**2) ** 0.5


def test_redi_starts_from_a_single_state():
    problem = ExactBayes.random(Diffusion(Absorbing(3)), 2, seed=0)
    with pytest.raises(ValueError, match="all masks, which tells none from another"):
        ReDi().for_student(tabular(problem))
    with pytest.raises(ValueError, match="must be at least 1"):
        ReDi(looks=0)
