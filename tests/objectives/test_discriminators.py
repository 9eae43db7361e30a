"""Objectives with a discriminator: what trains what, ties to the teacher, refusals."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_laws import FLIPS, MASKS, L, problem, step_of, table

from hf_ddistill.couplings import Trajectory
from hf_ddistill.laboratory import clean_sequences
from hf_ddistill.objectives import DiDi, ReinforceDMD
from hf_ddistill.objectives.anchor import divergence_from_teacher, entropy_of
from hf_ddistill.objectives.discriminator import Discriminator, of_two_times


def first_marginals(law):
    """Of each position, (L, 2)."""
    each = law.view((2,) * L)
    return torch.stack([each.sum([j for j in range(L) if j != i]) for i in range(L)])


BOTH = [ReinforceDMD(), DiDi(), DiDi(decomposed=False, entropy=0.1)]


def made(objective, diffusion=MASKS):
    torch.manual_seed(0)
    (need,) = (each for name, each in objective.networks.items() if name == "discriminator")
    judge = need.build("discriminator", torch.nn.Identity(), diffusion, 0)
    torch.nn.init.normal_(judge.head.weight, std=0.5)
    return judge


def step_with(objective, diffusion=MASKS, **more):
    judge = made(objective, diffusion)
    step = step_of(diffusion, table(diffusion), rows=64, student_steps=2, **more)
    peers = {"teacher": problem(diffusion, 1).denoiser(), "discriminator": judge}
    return replace(step, peers=peers, train=None), judge


@pytest.mark.parametrize("diffusion", [MASKS, FLIPS], ids=["masks", "flips"])
@pytest.mark.parametrize("objective", BOTH, ids=["reinforce", "didi", "one call"])
def test_each_loss_trains_another_network_than_its_own(objective, diffusion):
    step, judge = step_with(objective, diffusion)
    losses = objective(step)
    assert set(losses) == {"student", "discriminator"}
    losses["student"].backward(retain_graph=True)
    assert all(weight.grad is None for weight in judge.parameters())
    assert step.student.network.logits.grad.abs().sum() > 0
    step.student.network.logits.grad = None
    losses["discriminator"].backward()
    assert step.student.network.logits.grad is None
    assert all(weight.grad is not None for weight in judge.parameters())
    alone = replace(step, train=frozenset({"discriminator"}))
    assert set(objective(alone)) == {"discriminator"}


@pytest.mark.parametrize("objective", BOTH, ids=["reinforce", "didi", "one call"])
def test_a_discriminator_that_knows_nothing_moves_the_student(objective):
    """At the student's fixed point no state is told apart: without a tie nothing is left."""
    step, judge = step_with(objective)
    torch.nn.init.zeros_(judge.head.weight)
    free = replace(objective, anchor=0.0, **({"entropy": 0.0} if objective.id == "didi" else {}))
    (found,) = torch.autograd.grad(free(step)["student"], step.student.network.logits)
    assert found.abs().max() < 1e-12


def test_discriminator_learns_no_log_ratio():
    """Its optimum on data and draws of two laws that are known, at one time."""
    data, other = problem(MASKS, 1), problem(MASKS, 2)
    torch.manual_seed(0)
    judge = Discriminator(3, 32)
    optimizer = torch.optim.Adam(judge.parameters(), 1e-2)
    clean, times = clean_sequences(MASKS, L), torch.zeros(2**L, 1)
    for _ in range(120):
        odds = judge(clean, times)
        loss = data.law @ torch.nn.functional.softplus(-odds).double()
        loss = loss + other.law @ torch.nn.functional.softplus(odds).double()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    true = (data.law / other.law).log()
    assert (judge(clean, times) - true).abs().max() < 0.1


def test_discriminator_looks_at_padding_or_at_no_order():
    torch.manual_seed(0)
    judge, z, times = Discriminator(3, 16), torch.tensor([[0, 1, 2], [1, 0, 2]]), torch.ones(2, 1)
    torch.nn.init.normal_(judge.head.weight)
    said = judge(z, times)
    assert abs(said[0] - said[1]) > 1e-4
    longer = torch.cat([z, torch.ones(2, 2).long()], 1)
    attend = torch.tensor([[True] * 3 + [False] * 2] * 2)
    torch.testing.assert_close(judge(longer, times, attend), said)
    assert judge(z, times, torch.zeros(2, 3, dtype=torch.bool)).isfinite().all()


def test_factory_makes_one_of_another_size_than_the_student_s():
    student = torch.nn.Identity()
    student.config = type("Config", (), {"hidden_size": 24, "num_hidden_layers": 3})()
    judge = of_two_times(student, MASKS)
    assert len(judge.blocks) == 3 and judge.embed.embedding_dim == 24
    assert judge.time[0].in_features == 2


def test_tie_to_the_teacher_is_another_divergence():
    student, teacher = table(MASKS), problem(MASKS, 1)
    step = replace(step_of(MASKS, student, rows=4), peers={"teacher": teacher.denoiser()})
    x_t, t = torch.full((4, L), 2), torch.ones(4).double()
    local = step.look(student, x_t, t)
    q = student(x_t, t).log_conditional[0, :, :2]
    p = first_marginals(teacher.law).log()
    true = (q.exp() * (q - p)).sum()
    torch.testing.assert_close(divergence_from_teacher(step, local, x_t), true.expand(4))
    torch.testing.assert_close(entropy_of(local, 4), -(q.exp() * q).sum().expand(4))


def test_without_a_tie_the_entropy_of_a_wrong_cost_stays():
    """The paper's collapse: costs that a discriminator has wrong are followed to the end, unless
    the student is tied to its teacher."""

    class Wrong(torch.nn.Module):
        def forward(self, z, times, attend=None):
            return (z == 0).sum(1).double()

    left = {}
    for anchor in (0.0, 4.0):
        student = table(MASKS)
        optimizer = torch.optim.Adam([student.network.logits], 0.2)
        for seed in range(50):
            step = step_of(MASKS, student, rows=32, train=frozenset({"student"}))
            peers = {"teacher": problem(MASKS, 1).denoiser(), "discriminator": Wrong()}
            step.generator.manual_seed(seed)
            loss = ReinforceDMD(times="grid", anchor=anchor)(replace(step, peers=peers))["student"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        x_t = torch.full((32, L), 2)
        local = step.look(student, x_t, torch.ones(32).double())
        left[anchor] = float(entropy_of(local, 32).detach().mean())
    assert left[0.0] < 0.3 < 1.2 < left[4.0]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ReinforceDMD(group=1), "'reinforce_dmd': group must be from 2 to 4,096, got 1"),
        (lambda: DiDi(group=1), "'didi': group must be from 2 to 4,096, got 1"),
        (lambda: ReinforceDMD(anchor=-1.0), "anchor must be 0 or more"),
        (lambda: DiDi(entropy=float("inf")), "entropy must be 0 or more"),
        (lambda: ReinforceDMD(times="late"), "Unknown times"),
        (lambda: DiDi()(step_of(MASKS, table(MASKS))), "needs the network 'discriminator'"),
    ],
)
def test_wrong_setting_is_told_what_there_is(make, said):
    with pytest.raises(ValueError, match=said):
        make()


@pytest.mark.parametrize("objective", BOTH[:2], ids=["reinforce", "didi"])
def test_a_discriminator_without_data_is_trained_on_draws(objective):
    step, _ = step_with(objective)
    decoded = replace(step, trajectory=Trajectory(torch.zeros_like(step.x_0), L))
    with pytest.raises(ValueError, match="were decoded by a model: give it data"):
        objective(decoded)
