"""What weights do to an optimum, over every pair of states of a small space."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from enumeration import expectation, forward_joint, tabular, training_step
from exact_bayes import ExactBayes

from hf_ddistill.couplings import Memory
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.divergences import CrossEntropy
from hf_ddistill.objectives import DCD, ECD, MCD, SDTT
from hf_ddistill.objectives.weightings import Certainty, RelativeConfidence, Weighting
from hf_ddistill.processes import Absorbing, Uniform
from hf_ddistill.shapes import LOG_ZERO

S, T = 0.3, 0.7
both = pytest.mark.parametrize("cls", [Absorbing, Uniform], ids=lambda cls: cls.id)


def small(cls):
    return ExactBayes.random(Diffusion(cls.example(4)), 2, seed=1)


def slope(objective, problem, log_p):
    """The largest gradient at a student that says this."""
    student = tabular(problem, log_p)
    loss = expectation(objective, problem, student, forward_joint(problem, S, T), S, T)
    (gradient,) = torch.autograd.grad(loss, student.network.logits)
    return float(gradient.abs().max())


@both
@pytest.mark.parametrize("weighting", ["even", "noise_level", "learned"])
def test_weights_of_times_move_the_optimum(cls, weighting):
    problem = small(cls)
    exact = problem.conditional(T).log().clamp_min(LOG_ZERO)
    objective = partial(ECD, weighting=weighting)
    assert slope(objective, problem, exact) < 1e-12
    assert slope(objective, problem, torch.zeros_like(exact)) > 1e-3


@both
def test_certainty_ends_elsewhere_than_in_the_weighted_mean_of_the_teacher(cls):
    problem = small(cls)
    joint, target = forward_joint(problem, S, T), problem.conditional(S)
    target = torch.where(
        problem.diffusion.undetermined(problem.states)[..., None],
        target,
        torch.nn.functional.one_hot(problem.states, target.shape[-1]).double(),
    )
    entropy = torch.special.entr(target).sum(-1)
    weight = 1 - entropy / torch.tensor(float(target.shape[-1])).log()
    mean = torch.einsum("xs,sl,slk->xlk", joint, weight, target)
    best = (mean / mean.sum(-1, keepdim=True)).nan_to_num(0).log().clamp_min(LOG_ZERO)
    certain = partial(ECD, weighting="certainty")
    assert slope(certain, problem, best) < 1e-10
    # Which is no longer the teacher: a weight of tokens is a choice, and no trick of the trade.
    assert slope(certain, problem, problem.conditional(T).log().clamp_min(LOG_ZERO)) > 1e-4


@both
@pytest.mark.parametrize("strength", [0.3, -0.3])
def test_entropy_beside_the_reverse_kl_is_no_temperature(cls, strength):
    problem = small(cls)
    joint = forward_joint(problem, S, T)
    target = problem.conditional(S).log().clamp_min(LOG_ZERO)
    # What x_s has revealed is in no reverse KL, and the entropy is of all that x_t leaves open.
    share = joint[..., None] * problem.diffusion.undetermined(problem.states)[None]
    total = torch.einsum("xsl,slk->xlk", share, target)
    power = share.sum(1) + strength * joint.sum(1)[:, None]
    best = (total / power[..., None]).log_softmax(-1).clamp_min(LOG_ZERO)
    objective = partial(ECD, "reverse_kl", weighting={"type": "entropy", "strength": strength})
    assert slope(objective, problem, best) < 1e-10
    assert slope(partial(ECD, "reverse_kl"), problem, best) > 1e-4


@pytest.mark.parametrize(
    ("kind", "process"), [(ECD, Absorbing), (SDTT, Absorbing), (MCD, Absorbing), (DCD, Uniform)]
)
def test_an_objective_does_not_look_at_its_weighting(kind, process):
    problem = small(process)
    student = tabular(problem)

    def loss(weighting):
        step = training_step(problem, student, student_steps=4)
        return float(kind(weighting=weighting)(step)["student"].detach())

    plain = loss("even")
    for weighting in ("noise_level", "certainty", {"type": "entropy", "strength": 0.5}):
        assert loss(weighting) != pytest.approx(plain, rel=1e-3)
    assert loss({"type": "noise_level", "power": 0.0}) == pytest.approx(plain)


def test_learned_weights_leave_times_of_large_losses_on_top():
    problem = small(Absorbing)
    step = training_step(problem, tabular(problem), memory=Memory())
    learned, t = Weighting.from_config("learned"), (torch.arange(64).double() + 0.5) / 64
    for number in range(1000):
        noise = 0.5 + torch.rand(64, generator=torch.Generator().manual_seed(number))
        weighed = learned.rows(step, t, (1 + 9 * t) * noise)
        assert weighed.isfinite().all()
    of_bins = (weighed / noise).view(16, 4).mean(1)
    torch.testing.assert_close(of_bins, torch.ones(16).double(), atol=0.1, rtol=0)
    held_out = training_step(problem, step.student, memory=step.memory, held_out=True)
    assert torch.equal(learned.rows(held_out, t, t), t)


def test_relative_confidence_counts_what_the_student_knows_better():
    p, q = (
        torch.tensor(row).log()
        for row in ([[0.7, 0.2, 0.1]] * 3, [[0.6, 0.3, 0.1], [0.8, 0.1, 0.1], [0.2, 0.7, 0.1]])
    )
    weighting = RelativeConfidence(rest=0.25)
    assert weighting.of_tokens(p, q).tolist() == [1.0, 0.25, 1.0]
    assert RelativeConfidence(margin=0.5).of_tokens(p, q)[0] == 0.1
    # The weights are constants: the gradient is the divergence's, times them.
    q = q.requires_grad_()
    (plain,) = torch.autograd.grad(CrossEntropy()(p, q).sum(), q)
    (weighed,) = torch.autograd.grad(weighting.on(CrossEntropy())(p, q).sum(), q)
    torch.testing.assert_close(weighed, plain * torch.tensor([1.0, 0.25, 1.0])[:, None])


@pytest.mark.parametrize("name", Weighting.registry)
def test_what_is_said_of_a_certain_teacher_is_not_what_its_law_says(name):
    weighting = Weighting.from_config(name)
    log_q = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    log_p = torch.full((6, 4), LOG_ZERO).index_fill(-1, torch.tensor([2]), 0.0)
    found = weighting.of_certain(log_q[:, 2])
    assert (found >= 0).all()
    torch.testing.assert_close(found, weighting.of_tokens(log_p, log_q))
    assert Weighting.from_config(weighting.to_config()) == weighting and weighting.citation


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ({"type": "noise_level", "power": -2.0}, "power must be at least -1, got -2"),
        ({"type": "learned", "bins": 0}, "bins must be at least 1"),
        ({"type": "certainty", "most": 0.0}, "must be above 0, got 0"),
        ({"type": "relative_confidence", "rest": -1.0}, "rest must be at least 0, got -1"),
        ({"type": "entropy", "strength": -1.0}, "strength must be above -1, got -1"),
        ("certain", "did you mean 'certainty'"),
    ],
)
def test_a_weighting_out_of_range_is_taken(kind, message):
    with pytest.raises(ValueError, match=message):
        ECD(weighting=kind)


def test_certainty_below_zero_is_without_bound():
    log_p = torch.tensor([[0.5, 0.5], [1 - 1e-9, 1e-9]]).double().log()
    assert Certainty(power=-1.0).of_tokens(log_p, log_p).tolist() == pytest.approx([10.0, 1.0])
