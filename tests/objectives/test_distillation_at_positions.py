"""Where a step knows which positions change, nothing else is asked, and nothing else comes out."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from hf_ddistill.couplings import Coupling, StudentStep, TrainingStep, step_back
from hf_ddistill.couplings.step_back import _by_rule, step_of
from hf_ddistill.denoisers import NetworkDenoiser
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.divergences import Divergence
from hf_ddistill.objectives import ECD
from hf_ddistill.objectives.by_position import by_position
from hf_ddistill.parameterizations import Subs
from hf_ddistill.places import Places
from hf_ddistill.processes import Absorbing
from hf_ddistill.samplers import Sampler

B, L, K = 6, 9, 5
#: One that tells its denoiser how long a step is makes each step by itself.
KNOWING = [
    name
    for name, kind in Sampler.registry.items()
    if kind.chances is not Sampler.chances and name != "step_sized"
]


class Table(torch.nn.Module):
    """Logits of each position and of what the positions beside it hold; counts what is asked."""

    def __init__(self, seed):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        logits = torch.randn(L, K, K, generator=generator, dtype=torch.float64) * 2
        self.logits, self.asked = torch.nn.Parameter(logits), 0

    def forward(self, x_t, t, at=None):
        out = self.logits[torch.arange(L), x_t.roll(1, 1)]
        self.asked += x_t.numel() if at is None else len(at)
        return out if at is None else out.flatten(0, 1)[at]


def step_of_masks(mask=K - 1, seed=0, **more):
    diffusion = Diffusion(Absorbing(K, mask_token_id=mask))
    student, teacher = (NetworkDenoiser(Table(i), diffusion, Subs()) for i in (seed, seed + 50))
    generator = torch.Generator().manual_seed(seed)
    data = torch.tensor([k for k in range(K) if k != mask])
    x_0 = data[torch.randint(K - 1, (B, L), generator=generator)]
    return TrainingStep(x_0, diffusion, student, {"teacher": teacher}, 0.0, generator, **more)


def whole(objective, step):
    """The loss of ECD with the teacher asked everywhere: at what x_s shows it is a point mass."""
    s, t, _ = objective.times.draw(step)
    x_t, past = objective.coupling.draw(step, s, t)
    x_s = past(step.look(step.student, x_t, t))
    log_p, log_q = (
        one(x, time).log_conditional
        for one, x, time in ((step.peers["teacher"], x_s, s), (step.student, x_t, t))
    )
    distance = objective.weighting.on(objective.divergence, objective.top_k)(log_p.detach(), log_q)
    if not objective.divergence.finite:
        distance = torch.where(step.diffusion.undetermined(x_s), distance, 0.0)
    return torch.where(step.open(x_t), distance, 0.0).sum() / (B * L)


@pytest.mark.parametrize("mask", [2, K - 1])
@pytest.mark.parametrize("top_k", [None, 2])
@pytest.mark.parametrize("divergence", Divergence.registry)
@pytest.mark.parametrize("coupling", sorted(Coupling.registry.keys() - {"gaussian_duality"}))
def test_ecd_asks_the_teacher_at_masks_alone_for_the_same_loss(coupling, divergence, top_k, mask):
    objective = ECD(divergence=divergence, coupling=coupling, top_k=top_k)
    found = []
    for run in (lambda step: objective(step)["student"], lambda step: whole(objective, step)):
        step = step_of_masks(mask)
        loss = run(step)
        loss.backward()
        found.append((loss.detach(), step.student.network.logits.grad))
        asked = step.peers["teacher"].network.asked
    # What is left of a point mass beside its token is held to be 1e-12, of which alpha takes roots.
    near = {"rtol": 1e-9, "atol": 1e-11} if top_k is None else {"rtol": 2e-6, "atol": 2e-6}
    torch.testing.assert_close(*(loss for loss, _ in found), **near)
    torch.testing.assert_close(*(grad for _, grad in found), **near)
    assert found[0][1].abs().max() > 1e-3 and asked >= B * L


def test_the_teacher_is_asked_less_than_the_student():
    step = step_of_masks()
    ECD()(step)
    student, teacher = step.student.network.asked, step.peers["teacher"].network.asked
    assert 0 < teacher < student < B * L


@pytest.mark.parametrize("sampler", KNOWING)
def test_step_back_is_the_rule_s_with_the_same_numbers(sampler):
    sampler, found = Sampler.from_config(sampler), []
    t = torch.linspace(0.3, 1, B, dtype=torch.float64)
    for by_rule in (True, False):
        step = step_of_masks(seed=3)
        x_t = step.noised(t)
        here = step.look(step.student, x_t, t)
        step = replace(step, generator=torch.Generator().manual_seed(1))
        if by_rule:
            x_s, each = _by_rule(step, x_t, here, t / 2, sampler)
            log_p = torch.zeros(B).double().index_add(0, here.rows, each)
        else:
            x_s, log_p = step_back(step, x_t, here, t / 2, sampler)
        (slope,) = torch.autograd.grad(log_p.sum(), step.student.network.logits)
        found.append((x_s.where(x_t == K - 1, 0), log_p, slope))
    assert torch.equal(found[0][0], found[1][0]) and (found[0][0] == K - 1).any()
    for one, other in zip(*(each[1:] for each in found), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("sampler", KNOWING)
def test_step_of_a_denoiser_asks_only_where_a_token_is_drawn_and_has_the_law_of_the_rule(sampler):
    sampler, rows = Sampler.from_config(sampler), 4000
    step = step_of_masks(mask=1, seed=5)
    t = torch.full((rows,), 0.8, dtype=torch.float64)
    x_t = step.diffusion.corrupt(step.x_0[:1], t[:1], step.generator).expand(rows, -1)
    step = replace(step, x_0=step.x_0[:1].expand(rows, -1))
    step.student.network.asked = 0
    x_s = step_of(step, step.student, x_t, t / 2, t, sampler)
    drawn = ((x_t == 1) & (x_s != 1)).sum()
    assert step.student.network.asked == drawn > 0
    law = sampler.rule(step.student(x_t[:1], t[:1]), step.diffusion, x_t[:1], t[:1] / 2, t[:1])
    seen = torch.nn.functional.one_hot(x_s, K).double().mean(0)
    error = (law[0] * (1 - law[0]) / rows).sqrt()
    assert ((seen - law[0]).abs() <= 4.5 * error + 1e-9).all()


def test_padding_and_context_stay_as_they_are():
    context = torch.zeros(B, L, dtype=torch.bool).index_fill(1, torch.tensor([0, 4]), True)
    attend = torch.ones(B, L, dtype=torch.bool).index_fill(1, torch.tensor([8]), False)
    step = step_of_masks(seed=2, context=context, attend=attend)
    t = torch.full((B,), 0.9, dtype=torch.float64)
    x_t = step.noised(t)
    for sampler in map(Sampler.from_config, KNOWING):
        steps = (
            StudentStep(sampler).draw(step, t / 3, t)[1](step.look(step.student, x_t, t)),
            step_of(step, step.student, x_t, t / 3, t, sampler),
        )
        for x_s in steps:
            assert torch.equal(x_s[~step.trained & context], step.x_0[~step.trained & context])
        assert torch.equal(steps[1][~attend], x_t[~attend])


def test_a_part_of_the_positions_is_found_among_them():
    step = step_of_masks()
    t = torch.ones(B, dtype=torch.float64)
    x_t = step.noised(t * 0.7)
    here = step.look(step.student, x_t, t)
    part = here.where & (torch.arange(L) % 2 == 0)
    every = step.student(x_t, t).log_conditional
    torch.testing.assert_close(here.log_conditional_at(part), every[part])
    assert (
        here.log_conditional_at(here.where).data_ptr() == here.prediction.log_conditional.data_ptr()
    )
    assert torch.equal(here.numbers_of(Places.of(part)), part[here.where].nonzero()[:, 0])


@pytest.mark.parametrize("chunk", [1, 7, 10**6])
def test_sums_in_chunks_are_those_of_all_positions(monkeypatch, chunk):
    monkeypatch.setattr("hf_ddistill.objectives.by_position.ON_CPU", chunk)
    generator = torch.Generator().manual_seed(0)
    log_p, log_q = torch.randn(2, 10, 4, generator=generator, dtype=torch.float64).log_softmax(-1)
    numbers = torch.tensor([8, 1, 2, 5])
    log_q.requires_grad_()
    weights = torch.randn(10, generator=generator, dtype=torch.float64)

    def distance(some, part):
        return (log_p[numbers[some]].exp() * part.sin()).sum(-1)

    plain = torch.zeros(10).double().index_copy(0, numbers, distance(slice(None), log_q[numbers]))
    found = by_position(distance, log_q, numbers)
    torch.testing.assert_close(found, plain)
    one, other = (torch.autograd.grad((x * weights).sum(), log_q)[0] for x in (found, plain))
    torch.testing.assert_close(one, other)
