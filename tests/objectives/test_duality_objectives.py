"""DCD and MCD: what the coupling of each does to the optimum, by enumeration."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from enumeration import expectation, forward_joint, shared_joint, tabular
from exact_bayes import ExactBayes

from hf_ddistill.diffusion import Diffusion
from hf_ddistill.objectives import DCD, ECD, MCD
from hf_ddistill.processes import Absorbing, Uniform
from hf_ddistill.shapes import LOG_ZERO

S, T = 0.3, 0.7


def size_of_gradient(problem, joint, student, divergence):
    loss = expectation(partial(ECD, divergence), problem, student, joint, S, T)
    (grad,) = torch.autograd.grad(loss, student.network.logits)
    return float(grad.abs().max())


def optimum(problem, joint, divergence):
    """By the tower property, or the geometric mean of the teacher's conditionals."""
    target = problem.conditional(S)
    share = joint / joint.sum(1, keepdim=True)
    if divergence == "reverse_kl":
        logs = torch.einsum("xs,slk->xlk", share, target.log().clamp_min(LOG_ZERO))
        return logs.log_softmax(-1)
    return torch.einsum("xs,slk->xlk", share, target).log().clamp_min(LOG_ZERO)


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl"])
def test_dcd_s_optimum_is_the_teacher(divergence):
    """With the true process the forward KL has the teacher for its optimum, with shared noise not:
    x_0 and x_t are not independent given x_s."""
    problem = ExactBayes.random(Diffusion(Uniform(3)), 2, seed=2)
    shared, true = shared_joint(problem, S, T), forward_joint(problem, S, T)
    teacher = tabular(problem, problem.conditional(T).log())
    best = tabular(problem, optimum(problem, shared, divergence))
    assert size_of_gradient(problem, shared, best, divergence) < 1e-12
    assert size_of_gradient(problem, shared, teacher, divergence) > 1e-3
    if divergence == "forward_kl":
        assert size_of_gradient(problem, true, teacher, divergence) < 1e-12


def test_dcd_s_targets_are_no_nearer_to_the_end_of_the_trajectory_than_the_teacher_s():
    """What the shared noise tells: the student's law at x_t is sharper, by either divergence."""
    problem = ExactBayes.random(Diffusion(Uniform(3)), 2, seed=2)
    shared, at = shared_joint(problem, S, T), problem.marginal(T)

    def entropy(log_p):
        return float(torch.einsum("x,xlk->", at, torch.special.entr(log_p.exp())))

    teacher = entropy(problem.conditional(T).log())
    forward, reverse = (entropy(optimum(problem, shared, d)) for d in ("forward_kl", "reverse_kl"))
    assert reverse < forward and reverse < teacher - 0.01


def test_mcd_moves_an_exact_teacher_by_the_cross_entropy():
    """Masked trajectories are the true process: what is left is what the reverse KL sharpens."""
    problem = ExactBayes.random(Diffusion(Absorbing(3)), 2, seed=2)
    joint = forward_joint(problem, S, T)  # see test_dualities
    teacher = tabular(problem, problem.conditional(T).log().clamp_min(LOG_ZERO))
    assert size_of_gradient(problem, joint, teacher, "cross_entropy") < 1e-12
    assert size_of_gradient(problem, joint, teacher, "reverse_kl") > 1e-5


@pytest.mark.parametrize(
    ("objective", "process", "nearest"),
    [(DCD(), Absorbing(3), "take 'mcd'"), (MCD(), Uniform(3), "take 'dcd'")],
    ids=["dcd", "mcd"],
)
def test_a_duality_trains_another_process(objective, process, nearest):
    problem = ExactBayes.random(Diffusion(process), 2, seed=0)
    with pytest.raises(ValueError, match=nearest):
        objective.for_student(tabular(problem))
