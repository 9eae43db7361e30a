"""A block in one call, with an autoregressive teacher: the gradient, and what noise is for."""

from __future__ import annotations

import pytest
import torch
from causal_laws import MASKS, L, causal, law

from hf_ddistill.couplings import TrainingStep, Trajectory
from hf_ddistill.denoisers import Latent, NetworkDenoiser
from hf_ddistill.laboratory import all_sequences, kl_divergence, total_variation
from hf_ddistill.objectives import BlockLawMatching
from hf_ddistill.parameterizations import Subs

SEQUENCES = all_sequences(torch.arange(2), L)


class Mixture(torch.nn.Module):
    """Independent tokens given the sign of the first position's noise; without it one product."""

    def __init__(self, components, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        logits = 0.7 * torch.randn(components, L, 3, generator=generator, dtype=torch.float64)
        self.logits = torch.nn.Parameter(logits)

    def forward(self, x, t, *, at, clean_ids=None, block_size=None, noise=None):
        which = torch.zeros(len(x), dtype=torch.long) if noise is None else noise[:, 0, 0] > 0
        return self.logits[which.long()].flatten(0, 1)[at]

    def denoiser(self):
        dim = len(self.logits) - 1
        latent = Latent(dim) if dim else None
        return NetworkDenoiser(self, MASKS, Subs(), latent=latent, reads_time=None)

    def law(self):
        log_p = self.logits[..., :2].log_softmax(-1)
        of_each = log_p[:, torch.arange(L), SEQUENCES].sum(-1).exp()
        return of_each.mean(0)


def step_of(student, rows, seed=0, auxiliary=None, **more):
    """One block of L tokens; the auxiliary knows the student's law, unless there is another."""
    with torch.no_grad():
        own = causal(student.law()) if auxiliary is None else auxiliary
    x_0 = SEQUENCES[torch.zeros(rows, dtype=torch.long)]
    return TrainingStep(
        x_0,
        MASKS,
        student.denoiser(),
        {"teacher": causal(law(1)), "auxiliary": own},
        generator=torch.Generator().manual_seed(seed),
        trajectory=Trajectory(torch.zeros_like(x_0), L),
        **more,
    )


@pytest.mark.parametrize("components", [1, 2])
@pytest.mark.parametrize("draws", [2, 4])
def test_gradient_is_that_of_the_divergence_of_the_laws(components, draws):
    student = Mixture(components)
    true = torch.autograd.grad(kl_divergence(student.law(), law(1)), student.logits)[0]
    step = step_of(student, 40_000, train=frozenset({"student"}))
    loss = BlockLawMatching(draws=draws)(step)["student"]
    found = L * torch.autograd.grad(loss, student.logits)[0]
    assert float(true.norm()) > 0.1
    assert float((found - true).norm() / true.norm()) < 0.06


def test_auxiliary_lags_until_it_knows_what_the_student_draws(monkeypatch):
    monkeypatch.setattr("hf_ddistill.objectives.log_ratio.LOOKED_AT", 2**30)
    lags, student = [], Mixture(2)
    for auxiliary in (None, causal(law(1))):
        step = step_of(student, 20_000, auxiliary=auxiliary)
        BlockLawMatching()(step)
        lags.append(float(step.log.figures["auxiliary_lag"]))
    assert abs(lags[0]) < 0.01 < 0.02 < abs(lags[1])


def test_what_a_token_does_to_those_behind_it_counts():
    """The pathwise part alone is another gradient: the policy part is not there for nothing."""
    student = Mixture(2)
    true = torch.autograd.grad(kl_divergence(student.law(), law(1)), student.logits)[0]
    step = step_of(student, 40_000, train=frozenset({"student"}))
    objective = BlockLawMatching()
    local = step.look(
        step.student, torch.full_like(step.x_0, 2), torch.ones(len(step.x_0)), step.trajectory.drawn
    )
    log_pi = local.prediction.log_conditional[:, 0].double()
    seen = torch.zeros_like(log_pi)
    for _ in range(2):
        objective.draw(step, local, L, seen)
    alone = -(log_pi.exp() * seen)[:, :2].sum() / 2 / len(log_pi)
    found = L * torch.autograd.grad(alone, student.logits)[0]
    assert float((found - true).norm() / true.norm()) > 0.2


def trained(components):
    student = Mixture(components, seed=3)
    optimizer = torch.optim.Adam(student.parameters(), 0.05)
    for seed in range(120):
        step = step_of(student, 256, seed, train=frozenset({"student"}))
        optimizer.zero_grad()
        BlockLawMatching(draws=4)(step)["student"].backward()
        optimizer.step()
    return float(total_variation(student.law(), law(1)).detach())


@pytest.mark.slow
def test_noise_carries_what_the_tokens_of_a_call_share():
    """A product of independent tokens has its limit; two of them, told apart by noise, are below
    it."""
    assert trained(2) < 0.7 * trained(1)


def test_a_student_with_the_teacher_s_law_is_pulled_nowhere():
    student = Mixture(2)
    with torch.no_grad():
        own = causal(student.law())
    step = step_of(student, 64, train=frozenset({"student"}))
    step = TrainingStep(**{**vars(step), "peers": {"teacher": own, "auxiliary": own}})
    loss = BlockLawMatching()(step)["student"]
    assert torch.autograd.grad(loss, student.logits)[0].abs().max() < 1e-9


def test_the_auxiliary_learns_the_drawn_tokens():
    student = Mixture(2)
    step = step_of(student, 4096, train=frozenset({"auxiliary"}))
    losses = BlockLawMatching()(step)
    own = student.law().detach()
    entropy = -(own * own.log()).sum() / L
    assert set(losses) == {"auxiliary"}
    assert float(losses["auxiliary"].detach()) == pytest.approx(float(entropy), abs=0.01)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"draws": 1}, "draws must be at least 2")],
)
def test_wrong_settings_are_told(settings, message):
    with pytest.raises(ValueError, match=message):
        BlockLawMatching(**settings)


def test_a_missing_auxiliary_is_told():
    step = step_of(Mixture(1), 4)
    step = TrainingStep(**{**vars(step), "peers": {"teacher": step.peers["teacher"]}})
    with pytest.raises(ValueError, match="lacks auxiliary"):
        BlockLawMatching()(step)
