"""The likelihood bound: its integral is the entropy, for every process, and its draws agree."""

from __future__ import annotations

import pytest
import torch
from enumeration import oracle, tabular, training_step
from exact_bayes import ExactBayes

from hf_ddistill.denoisers import NetworkDenoiser
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.objectives import NELBO
from hf_ddistill.objectives.likelihood_bound import nelbo_density
from hf_ddistill.parameterizations import Conditional
from hf_ddistill.processes import Absorbing, Process, Uniform

K, L = 4, 2
each_process = pytest.mark.parametrize("cls", Process.registry.values(), ids=lambda cls: cls.id)
both = pytest.mark.parametrize("cls", [Absorbing, Uniform], ids=lambda cls: cls.id)


def small(cls):
    return ExactBayes.random(Diffusion(cls.example(K)), L, seed=1)


def bound(problem, denoiser):
    """The expected density integrated over t by Gauss-Legendre: t = u^4 up to 0.1, then in sigma.

    The power takes the logarithm (and under GIDD's mixture the root) at t = 0 away, and sigma the
    steep end at t = 1.
    """
    nodes, weights = legendre(24)
    schedule = problem.diffusion.schedule
    low, high = (float(schedule.sigma(torch.tensor(end))) for end in (0.1, 1.0))
    early = 0.1 * (0.5 + 0.5 * nodes) ** 4
    late = schedule.inverse(low + (high - low) * (0.5 + 0.5 * nodes))
    times = torch.cat([early, late])
    slope = torch.cat([0.2 * (0.5 + 0.5 * nodes) ** 3, (high - low) / 2 / schedule.rate(late)])
    weights = torch.cat([weights, weights]) * slope
    now, start, end = (
        torch.cartesian_prod(
            *(torch.arange(n) for n in (len(times), len(problem.clean), len(problem.states)))
        )
    ).mT
    joint = torch.stack([problem.joint(float(t)) for t in times]).flatten()
    now, start, end, joint = (x[joint > 1e-13] for x in (now, start, end, joint))
    x_0, x_t, t = problem.clean[start], problem.states[end], times[now]
    density = nelbo_density(denoiser(x_t, t), problem.diffusion, x_0, x_t, t)
    return float((weights[now] * joint) @ density.sum(-1).detach())


def legendre(points):
    """Nodes and weights of Gauss-Legendre quadrature (Golub, Welsch, 1969)."""
    i = torch.arange(1, points, dtype=torch.float64)
    off = i / (4 * i**2 - 1).sqrt()
    nodes, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
    return nodes, 2 * vectors[0] ** 2


def information_at_end(problem):
    """I(x_0; x_1): what LogLinear leaves at t = 1, and the bound leaves to its prior term."""
    joint = problem.joint(1.0)
    ratio = joint / (problem.law[:, None] * joint.sum(0)).clamp_min(1e-300)
    return float((joint * ratio.clamp_min(1e-300).log()).sum())


@each_process
def test_bound_of_the_exact_denoiser_is_the_entropy(cls):
    problem = small(cls)
    entropy = -float((problem.law * problem.law.log()).sum())
    exact = bound(problem, oracle(problem))
    assert exact == pytest.approx(entropy - information_at_end(problem), abs=2e-5)


@each_process
def test_bound_of_a_wrong_denoiser_is_larger(cls):
    problem = small(cls)
    entropy = -float((problem.law * problem.law.log()).sum())

    def hot(x_t, t):
        return oracle(problem).network(x_t, t) / 2

    hot = NetworkDenoiser(hot, problem.diffusion, Conditional())
    assert bound(problem, hot) > entropy + 0.01


@both
def test_bound_by_draws_is_the_bound_by_enumeration(cls):
    """Guards the placing of positions, the mean per token and the draws of t."""
    problem = small(cls)
    entropy = -float((problem.law * problem.law.log()).sum()) - information_at_end(problem)
    losses = [
        NELBO()(training_step(problem, oracle(problem), rows=2048, seed=seed))["student"]
        for seed in range(4)
    ]
    error = torch.stack(losses).std() / 2
    assert error < 0.05
    assert float(sum(losses) / 4) == pytest.approx(entropy / L, abs=4 * float(error))


def test_only_class_labels_are_dropped():
    problem, seen = small(Absorbing), {}

    def network(x_t, t, at=None, **condition):
        seen.update(condition)
        return student.network(x_t, t, at)

    student = tabular(problem)
    denoiser = NetworkDenoiser(network, problem.diffusion, student.parameterization)
    labels, noise = torch.full((2000,), 7), torch.randn(2000, 3)
    for share in (0.0, 0.25, 1.0):
        step = training_step(
            problem, denoiser, rows=2000, condition={"class_labels": labels, "noise": noise}
        )
        NELBO(label_dropout=share)(step)
        assert set(seen["class_labels"].tolist()) <= {-1, 7}
        dropped = float((seen["class_labels"] == -1).double().mean())
        assert dropped == pytest.approx(share, abs=0.04)
        assert seen["noise"] is noise
    assert (labels == 7).all(), "the batch's own labels were overwritten"
