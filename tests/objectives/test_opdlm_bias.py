"""OPDLM's target against the posterior on laws that can be enumerated, and its mending."""

import pytest
import torch
from block_targets import prefix
from on_policy import on_policy_table, re_scored
from transformers import LlamaConfig, LlamaForCausalLM

from hf_ddistill.convert import to_block_diffusion
from hf_ddistill.couplings import TrainingStep, Trajectory
from hf_ddistill.denoisers import NetworkDenoiser
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.laboratory import kl_divergence, total_variation
from hf_ddistill.laboratory.blocks.block_law import BlockDecoder, block_law
from hf_ddistill.laboratory.blocks.tables import CausalTable, block_table
from hf_ddistill.laboratory.space import all_sequences
from hf_ddistill.models import as_denoiser
from hf_ddistill.objectives.blocks.posterior_target import PosteriorTarget
from hf_ddistill.parameterizations import Conditional
from hf_ddistill.processes import Absorbing
from hf_ddistill.schedules import LogLinear
from hf_ddistill.unmasking import Static

L = 4
MASKS = Diffusion(Absorbing(4), LogLinear())


def law(seed=1):
    logits = 1.5 * torch.randn(3**L, generator=torch.Generator().manual_seed(seed))
    return logits.double().softmax(0)


def final(table, block_size, calls, order="random"):
    decoder = BlockDecoder(table.denoiser(), L, block_size, Static(order), calls)
    with torch.no_grad():
        return block_law(decoder).law


# ---------------------------------------------------------------------------- the bias


def test_bias_grows_with_the_block_and_is_none_at_one_token():
    """One token a call in random order: the posterior is exact, what forgets the right is not."""
    values = []
    for b in (1, 2, 4):
        found = final(on_policy_table(law(), b, MASKS, b), b, b)
        values.append(float(total_variation(found, law())))
        mended = final(on_policy_table(law(), b, MASKS, b, re_scored), b, b)
        assert float(total_variation(mended, law())) < 1e-9
    assert values[0] < 1e-12
    assert 0.05 < values[1] < values[2] - 0.05


def test_target_of_random_masks_on_the_teacher_s_sequences_is_biased_too():
    found = final(block_table(law(), 4, MASKS, prefix), 4, 4)
    assert float(kl_divergence(law(), found)) > 0.1


def test_from_left_to_right_the_prefix_is_all_there_is():
    for target in (prefix, None):
        found = final(block_table(law(), 4, MASKS, target), 4, 4, "left_to_right")
        assert float(total_variation(found, law())) < 1e-12


def test_fixed_point_of_on_policy_prefixes_is_one():
    """E[p(. | x_0^{<i})] over the table's own ends from a state is what it says there."""
    table = on_policy_table(law(), 4, MASKS, 2)
    p = law().view([3] * L)
    generator = torch.Generator().manual_seed(0)
    state = torch.tensor([[3, 3, 3, 3]])
    said = table(state, torch.zeros(1))[0, :, :3].softmax(-1)
    # Two calls of two tokens each, by hand: draw the ends many times.
    rows = 100_000
    x = state.repeat(rows, 1)
    order = torch.rand(rows, L, generator=generator).argsort(1)
    for call in range(2):
        log_p = table(x, torch.zeros(rows))[..., :3].softmax(-1)
        drawn = torch.multinomial(log_p.flatten(0, 1), 1, generator=generator).view(rows, L)
        now = (order // 2 == call) & (x == 3)
        x = torch.where(now, drawn, x)
    for i in range(L):
        joint = p.sum(list(range(i + 1, L))) if i < L - 1 else p
        given = (joint / joint.sum(-1, keepdim=True))[tuple(x[:, :i].T)]
        mean = given.mean(0) if i else given
        assert torch.allclose(mean, said[i], atol=0.006)


# ---------------------------------------------------------------------------- the mended target


def state_of(shown, block_size=4):
    """Every x_0 that agrees with `shown` (mask 3), as one batch; its masks; p(x_0 | x_t)."""
    shown = torch.tensor(shown)
    x_0 = all_sequences(torch.arange(3), L)
    seen = (x_0[:, shown != 3] == shown[shown != 3]).all(1)
    p = law()[seen]
    x_0 = x_0[seen]
    teacher = NetworkDenoiser(CausalTable(law(), MASKS), MASKS, Conditional(), reads_time=None)
    step = TrainingStep(
        x_0,
        MASKS,
        teacher,
        {"teacher": teacher},
        generator=torch.Generator().manual_seed(0),
        trajectory=Trajectory(torch.zeros_like(x_0), block_size),
    )
    return step, (shown == 3).expand(x_0.shape), p / p.sum()


def posterior_of(step, where, p):
    out = torch.zeros(int(where[0].sum()), 4, dtype=torch.float64)
    for n, i in enumerate(where[0].nonzero()[:, 0].tolist()):
        out[n].index_add_(0, step.x_0[:, i], p)
    return out[:, :3]


def uniform(where):
    log_p = torch.full((int(where.sum()), 1, 4), -1e6, dtype=torch.float64)
    log_p[..., :3] = -torch.tensor(3.0).log()
    return log_p


STATES = [[3, 3, 3, 3], [3, 0, 3, 2], [0, 3, 3, 1], [3, 3, 2, 3], [1, 2, 0, 3], [3, 1, 1, 0]]


@pytest.mark.parametrize("shown", STATES, ids=str)
def test_re_scored_sequences_of_the_teacher_give_the_posterior_in_the_mean(shown):
    step, where, p = state_of(shown)
    found = PosteriorTarget(4)(step, where, uniform(where))
    mean = torch.einsum("r,rnk->nk", p, found.exp().view(len(p), -1, 4))[:, :3]
    assert torch.allclose(mean, posterior_of(step, where, p), atol=1e-9)


def test_without_candidates_it_is_the_prefix_target():
    step, where, p = state_of([3, 0, 3, 2])
    found = PosteriorTarget(0)(step, where, uniform(where))
    causal = step.peers["teacher"].at(step.x_0, 0.0, where, causal=True).log_conditional
    assert torch.allclose(found, causal, atol=1e-9)
    mean = torch.einsum("r,rnk->nk", p, found.exp().view(len(p), -1, 4))[:, :3]
    assert (mean - posterior_of(step, where, p)).abs().max() > 0.05


def test_fewer_candidates_keep_the_others_share_and_part_of_the_bias():
    step, where, p = state_of([3, 0, 3, 2])
    true = posterior_of(step, where, p)
    errors = []
    for k in (0, 2, 3):
        found = PosteriorTarget(k)(step, where, uniform(where)).exp()
        assert torch.allclose(found.sum(-1), torch.ones(1, dtype=torch.float64))
        mean = torch.einsum("r,rnk->nk", p, found.view(len(p), -1, 4))[:, :3]
        errors.append(float((mean - true).abs().sum()))
    assert errors[0] > errors[1] > errors[2] + 0.01 and errors[2] < 1e-9


@pytest.mark.parametrize("candidates", [0, 4])
def test_weighted_completions_of_a_wrong_student_come_near_as_they_grow_many(candidates):
    """The student says nothing (uniform); x_0, which is all the first row has, is not looked at."""
    shown = [3, 3, 2, 3] if candidates else [0, 3, 3, 3]
    step, where, p = state_of(shown)
    true = posterior_of(step, where, p)
    wide = TrainingStep(
        step.x_0[:1].repeat(500, 1),
        MASKS,
        step.student,
        step.peers,
        generator=step.generator,
        trajectory=Trajectory(step.trajectory.rounds[:1].repeat(500, 1), 4),
    )
    where = where[:1].repeat(500, 1)
    means, spreads = [], []
    for m in (1, 8, 64):
        found = PosteriorTarget(candidates, m)(wide, where, uniform(where)).exp()
        found = found.view(500, -1, 4)[..., :3]
        means.append(float((found.mean(0) - true).abs().sum()))
        spreads.append(float((found - true).abs().sum((1, 2)).mean()))
    assert 3 * means[2] < means[1] < means[0]
    assert spreads[0] > spreads[1] > spreads[2]


def test_targets_of_a_block_know_the_finished_blocks_and_not_the_candidates_before():
    """Two blocks at once are the same as each by itself."""
    step, where, _ = state_of([3, 3, 3, 3], block_size=2)
    both = PosteriorTarget(4)(step, where, uniform(where)).view(len(where), 4, 4)
    for first, columns in ((0, slice(0, 2)), (2, slice(2, 4))):
        only = torch.zeros_like(where)
        only[:, columns] = True
        alone = PosteriorTarget(4)(step, only, uniform(only)).view(len(where), 2, 4)
        assert torch.allclose(both[:, first : first + 2], alone)


def test_padding_to_the_right_is_no_context():
    step, where, _ = state_of([3, 0, 1, 2])
    attend = torch.tensor([True, True, False, False]).expand(where.shape)
    cut = TrainingStep(
        step.x_0, MASKS, step.student, step.peers, trajectory=step.trajectory, attend=attend
    )
    found = PosteriorTarget(4)(cut, where, uniform(where)).exp()[0, 0, :3]
    p = law().view([3] * L).sum((2, 3))[:, 0]
    assert torch.allclose(found, p / p.sum())


def test_language_model_scores_candidates_of_all_blocks_as_it_does_one_sequence_each():
    torch.manual_seed(0)
    causal = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=6,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
        )
    )
    model, _ = to_block_diffusion(causal.eval(), block_size=4, mask_token_id=5)
    denoiser = as_denoiser(model.eval())
    x_0 = torch.randint(5, (2, 12))
    rounds = torch.zeros_like(x_0)
    rounds[:, :4] = -1
    where = torch.zeros_like(x_0, dtype=torch.bool)
    where[0, [4, 5, 9, 11]] = True
    where[1, [6, 8, 9]] = True
    step = TrainingStep(
        x_0, denoiser.diffusion, denoiser, {"teacher": denoiser}, trajectory=Trajectory(rounds, 4)
    )
    flat = torch.zeros(int(where.sum()), 1, 6).log_softmax(-1)
    found = PosteriorTarget(6)(step, where, flat)[:, 0]
    for n, (row, i) in enumerate(where.nonzero().tolist()):
        end = i // 4 * 4 + 4
        last = max([j for j in range(i, end) if not where[row, j]], default=i)
        tried = x_0[row : row + 1, : last + 1].repeat(5, 1)
        tried[:, i] = torch.arange(5)
        with torch.no_grad():
            log_p = causal(input_ids=tried).logits[:, :-1, :5].log_softmax(-1)
        scores = log_p[:, i - 1 :].gather(-1, tried[:, i:, None]).sum((1, 2))
        assert torch.allclose(found[n, :5], scores.log_softmax(-1).to(found), atol=1e-4)


@pytest.mark.parametrize("settings", [{"candidates": -1}, {"completions": 0}])
def test_wrong_numbers_are_refused(settings):
    step, where, _ = state_of([3, 0, 1, 2])
    with pytest.raises(ValueError, match="at least"):
        PosteriorTarget(**settings)(step, where, uniform(where))
