"""Drafts trained to be accepted: the loss by enumeration, and what it does to speculation."""

from __future__ import annotations

import itertools

import pytest
import torch
from causal_laws import MASKS, causal
from causal_laws import law as random_law
from exact_bayes import ExactBayes

from hf_ddistill.couplings import TrainingStep, Trajectory
from hf_ddistill.denoisers import Autoregressive, NetworkDenoiser
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.laboratory.blocks.tables import block_table
from hf_ddistill.linalg import categorical, verify_drafts
from hf_ddistill.objectives import Acceptance, BlockAcceptance
from hf_ddistill.objectives.acceptance import agreement, expected_share
from hf_ddistill.processes import Uniform

K, LENGTH = 3, 3


def joint(seed=0):
    p = torch.rand(K, K, K, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return p / p.sum()


def conditional(p, before):
    """p(. | before)."""
    part = p[before].reshape(K, -1).sum(-1)
    return part / part.sum()


def test_the_form_without_draws_is_not_the_expectation_over_the_draft_s_or_has_another_gradient():
    p = joint()
    q = torch.rand(LENGTH, K, dtype=torch.float64).log_softmax(-1).requires_grad_()
    drawn, at_data = 0.0, 0.0
    for j in range(LENGTH):
        for d in itertools.product(range(K), repeat=j):
            chance = 1.0
            for i in range(j):
                kept = (conditional(p, d[:i])[d[i]] / q[i].exp()[d[i]]).clamp_max(1)
                chance = chance * q[i].exp()[d[i]] * kept
            drawn = drawn + chance * torch.minimum(conditional(p, d), q[j].exp()).sum()
    for x in itertools.product(range(K), repeat=LENGTH):
        log_p = torch.stack([conditional(p, x[:j]) for j in range(LENGTH)]).log()
        parts = agreement(log_p, q, torch.tensor(x))
        at_data = at_data + p[x] * expected_share(*parts, torch.ones(LENGTH).bool()) * LENGTH
    torch.testing.assert_close(at_data, drawn)
    gradients = [torch.autograd.grad(each, q, retain_graph=True)[0] for each in (at_data, drawn)]
    torch.testing.assert_close(*gradients)


@pytest.fixture(scope="module")
def courses():
    """A law of four tokens in which two sequences have most of the mass."""
    law = torch.full((16,), 0.2 / 16, dtype=torch.float64)
    law[0] += 0.5
    law[15] += 0.3
    return law


def block_student(law):
    """A table of one block without any knowledge of a law."""
    student = block_table(torch.full_like(law, 1 / 16), 4, MASKS)
    return student, student.denoiser()


def trained(law, objective, steps=60):
    teacher, (table, student) = causal(law), block_student(law)
    optimizer = torch.optim.Adam(table.parameters(), 0.1)
    sequences = torch.cartesian_prod(*[torch.arange(2)] * 4)
    for number in range(steps):
        generator = torch.Generator().manual_seed(number)
        x_0 = sequences[torch.multinomial(law, 128, True, generator=generator)]
        path, peers = Trajectory(torch.zeros_like(x_0), 4), {"teacher": teacher}
        step = TrainingStep(x_0, MASKS, student, peers, generator=generator, trajectory=path)
        optimizer.zero_grad()
        objective(step)["student"].backward()
        optimizer.step()
    return student


def kept_of_a_block(law, student, rows=20_000):
    """The mean number of drafts out of four that the causal model of a law keeps."""
    with torch.no_grad():
        masks = torch.full((1, 4), 2)
        q = student(masks).log_conditional.double().exp().expand(rows, -1, -1)
        drafts = categorical(q, torch.Generator().manual_seed(0))
        p = Autoregressive(causal(law))(drafts).log_conditional.exp()
    p, count = torch.cat([p, p[:, :1]], 1), torch.full((rows,), 4)
    kept, _ = verify_drafts(drafts, q, p, count, torch.Generator().manual_seed(1))
    return float(kept.double().mean())


def test_the_causal_model_keeps_no_more_of_it_than_of_an_untrained_or_a_kl_trained_draft(courses):
    untrained = kept_of_a_block(courses, block_student(courses)[1])
    kl = kept_of_a_block(courses, trained(courses, BlockAcceptance("forward_kl")))
    own = kept_of_a_block(courses, trained(courses, BlockAcceptance()))
    assert untrained + 0.2 < kl and kl + 0.2 < own
    best = kept_of_a_block(courses, block_table(courses, 4, MASKS).denoiser())
    assert kl == pytest.approx(best, abs=0.1), "the exact posterior is where a KL ends"


def test_rows_without_an_open_position_cost_something():
    problem = ExactBayes.random(MASKS, 2)
    student = NetworkDenoiser(lambda x, t, at: torch.zeros(len(at), 3), MASKS, reads_time=None)
    step = TrainingStep(
        problem.clean[:2],
        MASKS,
        student,
        {"teacher": student},
        generator=torch.Generator().manual_seed(0),
        attend=torch.zeros(2, 2, dtype=torch.bool),
    )
    assert float(Acceptance()(step)["student"]) == 0


def test_the_causal_model_accepts_less_of_itself_than_all():
    """Of a draft that says what the causal model says of tokens that it sees, one token is left
    of each block: it is kept for certain."""
    teacher = causal(random_law(0))

    def network(x, t, at=None, clean_ids=None, **_):
        return teacher.network(clean_ids, t, at=at, causal=True)

    student = NetworkDenoiser(network, MASKS, reads_time=None)
    x_0 = torch.tensor([[0, 1, 1, 0], [1, 0, 0, 1]])
    path = Trajectory(torch.zeros(2, 4, dtype=torch.int64), 2)
    step = TrainingStep(
        x_0,
        MASKS,
        student,
        {"teacher": teacher},
        generator=torch.Generator().manual_seed(0),
        trajectory=path,
    )
    assert float(BlockAcceptance()(step)["student"]) == pytest.approx(0, abs=1e-6)
    other = causal(random_law(1))
    step.peers["teacher"] = other
    assert float(BlockAcceptance()(step)["student"]) > 0.05
    distance = BlockAcceptance("total_variation")(step)["student"]
    assert float(distance) > 0.05


def test_a_lookahead_below_one_or_a_process_without_masks_is_no_sentence():
    with pytest.raises(ValueError, match="lookahead.*must be at least 1, got 0"):
        Acceptance(0)
    problem = ExactBayes.random(Diffusion(Uniform(3)), 2)
    with pytest.raises(
        ValueError, match="'acceptance' is of masked tokens.*take 'law_matching' or"
    ):
        Acceptance().for_student(problem.denoiser())
