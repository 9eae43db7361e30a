"""Di4C: its estimator by enumeration, and what its mixture does to total correlation."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from enumeration import oracle, predicted, tabular, training_step
from exact_bayes import ExactBayes, all_sequences
from torch import nn

from hf_ddistill.denoisers import Latent, NetworkDenoiser
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.objectives import Di4C
from hf_ddistill.objectives.mixture import Mixture
from hf_ddistill.parameterizations import Conditional
from hf_ddistill.processes import Absorbing, Uniform

L, N = 3, 8


class Tables(nn.Module):
    """Four tables of logits; the signs of a sequence's two numbers of noise say which."""

    def __init__(self, problem, log_p, spread, seed=0):
        super().__init__()
        self.index = problem.index
        noise = torch.randn(4, *log_p.shape, generator=torch.Generator().manual_seed(seed))
        self.logits = nn.Parameter(log_p.double() + spread * noise.double())

    def forward(self, x_t, t, noise, at=None):
        which = (noise > 0).long() @ torch.tensor([2, 1])
        output = self.logits[which, self.index(x_t)]
        return output if at is None else output.flatten(0, 1)[at]


def problem_of(process):
    """Three bits that like to be equal."""
    clean = all_sequences(2, L)
    law = torch.full((8,), 0.02, dtype=torch.float64)
    law[0], law[7] = 0.5, 0.38
    return ExactBayes(Diffusion(process), clean, law / law.sum())


def mixture_student(problem, spread):
    start = predicted(problem, oracle(problem), 0.5).clamp_min(1e-6).log()
    network = Tables(problem, start, spread)
    return NetworkDenoiser(network, problem.diffusion, Conditional(), Latent(2, "sequence"))


def law_of_one_call(problem, student):
    """q(x) at the state of nothing but masks, as the mean over the four tables."""
    blank = problem.index(torch.full((L,), problem.diffusion.process.mask_token_id))
    of_tables = student.network.logits[:, blank, :, :-1].log_softmax(-1)
    positions = torch.arange(L)
    return of_tables[:, positions, problem.clean].sum(-1).exp().mean(0).detach()


def kl(p, q):
    return float((p * (p / q).log()).sum())


def total_correlation(law, clean):
    marginals = torch.stack([law @ (clean == bit).double() for bit in (0, 1)])
    product = marginals[clean, torch.arange(L)].prod(-1)
    return kl(law, product)


# ---------------------------------------------------------------------------- the estimator


def gradients(problem, law, control):
    """Of the cross entropy from each completion of masks: (8, all weights)."""
    student = mixture_student(problem, 1.0)
    step = training_step(problem, student, rows=1)
    blank = torch.full((1, L), problem.diffusion.process.mask_token_id)
    mixture = Mixture.of(step, student, blank, torch.ones(1).double(), N)
    law = law(mixture)
    marginals = torch.stack([law @ (problem.clean == k).double() for k in range(3)], -1)
    found = []
    for x_0 in problem.clean:
        loss, _ = mixture.cross_entropy(x_0[None, :, None], marginals, control)
        (slope,) = torch.autograd.grad(loss.sum(), student.network.logits, retain_graph=True)
        found.append(slope.flatten())
    return law, torch.stack(found)


def test_control_variate_moves_the_gradient_or_takes_no_variance_away():
    problem = problem_of(Absorbing(3))
    (law, plain), (_, controlled) = (
        gradients(problem, lambda _: problem.law, control) for control in (False, True)
    )
    torch.testing.assert_close(law @ plain, law @ controlled)
    spread = [float((law @ (each - law @ each) ** 2).sum()) for each in (plain, controlled)]
    assert spread[1] < 0.8 * spread[0] and float((law @ plain).abs().max()) > 0.01


@pytest.mark.parametrize("control", [False, True])
def test_mixture_meets_a_gradient_at_its_own_law(control):
    def own(mixture):
        log_q = mixture.log_probs(problem.clean.mT[None]).sum(2).logsumexp(1)
        return log_q[0].softmax(0).detach()

    problem = problem_of(Absorbing(3))
    law, found = gradients(problem, own, control)
    assert (law @ found).abs().max() < 1e-12 and found.abs().max() > 0.01


def test_marginals_of_a_mixture_are_not_the_means_of_its_components():
    problem = problem_of(Uniform(2))
    student = mixture_student(problem, 1.0)
    step = replace(training_step(problem, student, rows=5), attend=torch.rand(5, L) < 0.8)
    t = torch.full((5,), 0.7).double()
    mixture = Mixture.of(step, student, step.x_0, t, N)
    log_q = mixture.log_probs(torch.arange(2)[None, None].expand(5, L, 2))
    expected = log_q.exp().mean(1)[step.open(step.x_0)]
    torch.testing.assert_close(mixture.marginals(), expected)
    drawn = mixture.draw(step.x_0)
    assert drawn.shape == (5, L, N)
    assert (drawn == step.x_0[..., None])[~step.trained].all()


# ---------------------------------------------------------------------------- the mechanism


def test_mixture_leaves_the_total_correlation_that_a_product_leaves():
    problem = problem_of(Absorbing(3))
    student = mixture_student(problem, 0.3)
    optimizer = torch.optim.Adam(student.networks()[0].parameters(), 0.05)
    left = total_correlation(problem.law, problem.clean)
    before = law_of_one_call(problem, student)
    objective = Di4C(components=8, width=0.125, data=0.0).for_student(student)
    for seed in range(150):
        optimizer.zero_grad()
        objective(training_step(problem, student, rows=64, seed=seed))["student"].backward()
        optimizer.step()
    after = law_of_one_call(problem, student)
    # No product is nearer to the law than the correlation that it leaves out (T1).
    assert kl(problem.law, before) > 0.9 * left
    assert kl(problem.law, after) < 0.25 * left
    assert total_correlation(after, problem.clean) > 0.5 * left


def test_student_without_noise_or_a_setting_out_of_range_is_taken():
    problem = problem_of(Absorbing(3))
    with pytest.raises(ValueError, match="takes no noise that it could be one over"):
        Di4C().for_student(tabular(problem))
    for settings, message in (
        ({"components": 1}, "at least 2 components"),
        ({"width": 0.0}, r"width must lie in \[0.001, 1\], got 0.0"),
        ({"share": 1.5}, r"share must lie in \[0, 1\], got 1.5"),
    ):
        with pytest.raises(ValueError, match=message):
            Di4C(**settings)
