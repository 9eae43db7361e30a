"""Law matching on spaces that can be enumerated: its reward, its gradients, what it reaches."""

import math
from dataclasses import replace

import pytest
import torch
from small_laws import BOTH, FLIPS, MASKS, L, problem, step_of, table

from hf_ddistill.couplings import Asked, call_numbers, roll_out, views
from hf_ddistill.denoisers import Latent, NetworkDenoiser
from hf_ddistill.laboratory import (
    ExactProblem,
    clean_sequences,
    kl_divergence,
    sequence_numbers,
    terminal_law,
    total_variation,
)
from hf_ddistill.laboratory.fit import BenchSettings, fit_start, train_student
from hf_ddistill.laboratory.problems import exact_law
from hf_ddistill.objectives import LawMatching
from hf_ddistill.parameterizations import Conditional, Subs
from hf_ddistill.samplers import step_grid


@pytest.mark.parametrize("masking", ["uniform", "inverse"])
def test_reward_by_random_maskings_is_the_log_ratio_of_the_laws(masking):
    teacher, student = problem(MASKS, 1), problem(MASKS, 2)
    rows = 2**L * 4000
    step = step_of(MASKS, table(MASKS), teacher.denoiser(), student.denoiser(), rows=rows)
    objective = LawMatching(masking=masking)
    everywhere = torch.ones_like(step.x_0, dtype=torch.bool)
    rewards = objective._reward(step, step.x_0, objective._view(step, step.x_0, Asked(everywhere)))
    found = rewards.view(-1, 2**L)
    true = (teacher.law / student.law).log()
    error = found.std(0) / math.sqrt(len(found))
    assert ((found.mean(0) - true).abs() < 4.5 * error).all()
    assert error.max() < 0.05


def test_reward_by_bounds_is_minus_the_divergence_where_nothing_is_masked():
    teacher, student = problem(FLIPS, 1), problem(FLIPS, 2)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.multinomial(student.law, 60_000, True, generator=generator)
    step = step_of(FLIPS, table(FLIPS), teacher.denoiser(), student.denoiser(), rows=60_000)
    step = replace(step, x_0=student.sequences[drawn])
    everywhere = torch.ones_like(step.x_0, dtype=torch.bool)
    objective = LawMatching()
    rewards = objective._reward(step, step.x_0, objective._view(step, step.x_0, Asked(everywhere)))
    true = -kl_divergence(student.law, teacher.law)
    error = rewards.std() / math.sqrt(len(rewards))
    assert abs(rewards.mean() - true) < 4.5 * error + 0.01 * abs(true)
    assert error < 0.1 * abs(true)


# ---------------------------------------------------------------------------- the gradients


@pytest.mark.parametrize("diffusion", [MASKS, FLIPS], ids=["masks", "flips"])
def test_entropy_bonus_counts_the_auxiliary_s_share_of_the_reward_again(diffusion):
    """R + b * (-log p_A), on the same draws: b = 1 adds the part of the auxiliary."""
    one, other = problem(diffusion, 1).denoiser(), problem(diffusion, 2).denoiser()
    rewards = {}
    for bonus in (0.0, 1.0):
        step = step_of(diffusion, table(diffusion), one, other, rows=64)
        everywhere = torch.ones_like(step.x_0, dtype=torch.bool)
        objective = LawMatching(entropy_bonus=bonus)
        view = objective._view(step, step.x_0, Asked(everywhere))
        rewards[bonus] = objective._reward(step, step.x_0, view)
    gained = rewards[1.0] - rewards[0.0]
    assert (gained > -1e-9).all() and gained.mean() > 0.1


@pytest.mark.parametrize("credit", ["rollout", "call"])
def test_policy_gradient_is_that_of_the_divergence_of_the_terminal_laws(credit):
    teacher, student = problem(MASKS, 1), table(MASKS)
    law = terminal_law(student, MASKS, L, step_grid(2))
    (true,) = torch.autograd.grad(kl_divergence(law, teacher.law), student.network.logits)
    exact = ExactProblem(law.detach(), teacher.sequences, MASKS)
    step = step_of(MASKS, student, teacher.denoiser(), exact.denoiser(), 60_000, student_steps=2)
    objective = LawMatching(gradient="policy", horizon="rollout", any_steps=False, credit=credit)
    (found,) = torch.autograd.grad(objective(step)["student"], student.network.logits)
    assert torch.cosine_similarity(found.flatten(), true.flatten(), 0) > 0.98
    assert float((L * found).norm() / true.norm()) == pytest.approx(1, abs=0.06)


def test_auxiliary_is_not_told_by_masks_which_tokens_are_of_one_call():
    """Of such masks it would learn that these tokens are independent, which they are not in p_S: a
    student of two calls ended at a total variation of .068 instead of .034."""
    losses = []
    for credit in ("rollout", "call"):
        step = step_of(MASKS, table(MASKS), *[problem(MASKS, 1).denoiser()] * 2, 20_000)
        objective = LawMatching(gradient="policy", horizon="rollout", credit=credit)
        losses.append(float(objective(replace(step, student_steps=2))["auxiliary"]))
    assert losses[0] == pytest.approx(losses[1], abs=0.01)


def test_what_calls_gain_sums_to_the_reward():
    """Exact denoisers, one masking of all: the gains of both calls of each row, and the whole."""
    teacher, student = problem(MASKS, 1), problem(MASKS, 2)
    step = step_of(MASKS, table(MASKS), teacher.denoiser(), student.denoiser(), 20_000)
    step = replace(step, student_steps=2)
    rollout = roll_out(step, *torch.tensor([[2], [1]]).expand(2, 20_000))
    objective, gains = LawMatching(), torch.zeros(20_000, 2).double()
    for call in (0, 1):
        at = rollout.number - call
        view = objective._view(step, rollout.x_0, Asked(at == 0, at > 0))
        gains[:, call] = objective._reward(step, rollout.x_0, view)
    number = sequence_numbers(rollout.x_0, 2)
    true = (teacher.law.log() - student.law.log())[number]
    for one in range(2**L):
        rows = number == one
        error = gains[rows].sum(1).std() / rows.sum() ** 0.5
        assert float(gains[rows].sum(1).mean() - true[rows][0]) == pytest.approx(
            0, abs=4.5 * float(error)
        )


class SignTable(torch.nn.Module):
    """Free logits for each pattern of the signs of the noise: a mixture of 2^L products."""

    def __init__(self):
        super().__init__()
        self.logits = torch.nn.Parameter(torch.randn(2**L, L, 3, dtype=torch.float64))

    def forward(self, x_t, t, noise, at=None):
        signs = (noise[..., 0] > 0).long()
        output = self.logits[(signs * 2 ** torch.arange(L)).sum(1)]
        return output if at is None else output[at]


def test_pathwise_gradient_of_one_call_with_single_maskings_is_that_of_the_divergence():
    torch.manual_seed(0)
    network, teacher = SignTable(), problem(MASKS, 1)
    student = NetworkDenoiser(network, MASKS, Subs(), latent=Latent(1))
    log_p = network.logits[..., :2].log_softmax(-1)
    clean = teacher.sequences
    law = torch.stack([log_p[:, i, clean[:, i]] for i in range(L)]).sum(0).exp().mean(0)
    (true,) = torch.autograd.grad(kl_divergence(law, teacher.law), network.logits)
    exact = ExactProblem(law.detach(), clean, MASKS)
    step = step_of(MASKS, student, teacher.denoiser(), exact.denoiser(), 60_000)
    objective = LawMatching(masking="single")
    (found,) = torch.autograd.grad(objective(step)["student"], network.logits)
    assert torch.cosine_similarity(found.flatten(), true.flatten(), 0) > 0.98
    assert float((L**2 * found).norm() / true.norm()) == pytest.approx(1, abs=0.06)


@pytest.mark.parametrize("diffusion", [MASKS, FLIPS, BOTH], ids=["masks", "flips", "both"])
@pytest.mark.parametrize("gradient", ["pathwise", "policy", "mixture"])
def test_student_with_the_teacher_s_law_is_pulled_nowhere(diffusion, gradient):
    """Auxiliary and teacher agree: every difference is 0, whatever is drawn."""
    teacher, student = problem(diffusion, 1), table(diffusion)
    horizon = {"horizon": "rollout"}
    peers = (teacher.denoiser(), teacher.denoiser())
    step = step_of(diffusion, student, *peers, rows=64, student_steps=2)
    loss = LawMatching(gradient=gradient, **horizon)(step)["student"]
    (found,) = torch.autograd.grad(loss, student.network.logits)
    assert found.abs().max() < 1e-9


def test_waiting_student_costs_no_graph_and_gets_no_loss():
    teacher, student, auxiliary = problem(MASKS, 1), table(MASKS), table(MASKS, seed=4)
    step = step_of(MASKS, student, teacher.denoiser(), auxiliary, train=frozenset({"auxiliary"}))
    losses = LawMatching()(step)
    assert set(losses) == {"auxiliary"}
    losses["auxiliary"].backward()
    assert student.network.logits.grad is None
    assert auxiliary.network.logits.grad.abs().sum() > 0


def test_losses_of_student_and_auxiliary_share_no_graph():
    teacher, student, auxiliary = problem(MASKS, 1), table(MASKS), table(MASKS, seed=4)
    losses = LawMatching()(step_of(MASKS, student, teacher.denoiser(), auxiliary))
    losses["student"].backward()
    assert auxiliary.network.logits.grad is None
    student.network.logits.grad = None
    losses["auxiliary"].backward()
    assert student.network.logits.grad is None


# ---------------------------------------------------------------------------- rollouts, views


@pytest.mark.parametrize("sampler", ["ancestral", "jump"])
@pytest.mark.parametrize("diffusion", [MASKS, FLIPS], ids=["masks", "flips"])
def test_rollouts_have_the_law_of_the_sampler(diffusion, sampler):
    student, rows = table(diffusion), 40_000
    step = step_of(diffusion, student, rows=rows, student_steps=4)
    calls = torch.tensor([1, 2, 3]).repeat(rows)[:rows]
    with torch.no_grad():
        x_0 = roll_out(step, calls, calls - 1, sampler).x_0
        for n in (1, 2, 3):
            drawn = sequence_numbers(x_0[calls == n], diffusion.vocab_size)
            number = sequence_numbers(clean_sequences(diffusion, L), diffusion.vocab_size)
            found = (drawn[:, None] == number).double().mean(0)
            true = terminal_law(student, diffusion, L, step_grid(n), sampler)
            assert total_variation(found, true) < 0.02


def test_numbers_of_calls_are_the_powers_of_two_up_to_the_student_s():
    step = step_of(MASKS, table(MASKS), rows=600, student_steps=6)
    assert call_numbers(step, True).unique().tolist() == [1, 2, 4, 6]
    assert call_numbers(step, False).unique().tolist() == [6]
    each = call_numbers(step, True, each_call=True)
    shares = torch.stack([(each == n).double().mean() for n in (1, 2, 4, 6)])
    assert torch.allclose(shares, torch.tensor([1, 2, 4, 6]).double() / 13, atol=0.05)


@pytest.mark.parametrize("masking", ["uniform", "inverse", "single"])
def test_padding_is_never_asked_for_and_counts_for_no_time(masking):
    attend = torch.tensor([[True, True, False]] * 400)
    step = step_of(MASKS, table(MASKS), rows=400, attend=attend)
    z, t, where, _ = views(step, step.x_0, masking, attend)
    assert not where[:, 2].any() and (z[:, 2] == step.x_0[:, 2]).all()
    assert torch.equal(where.sum(1).double() / 2, 1 - MASKS.schedule.alpha(t).round(decimals=6))


# ---------------------------------------------------------------------------- what it reaches


@pytest.mark.slow
def test_one_call_beats_the_exact_teacher_s_total_variation_five_times():
    law = exact_law("digits")
    standard = ExactProblem(law.law, law.sequences, MASKS)
    rates = {"learning_rate": 2e-3, "auxiliary_learning_rate": 4e-3}
    settings = BenchSettings(calls=1200, rows=256, start_steps=150, width=128, **rates)
    start = fit_start(standard, settings)
    trained = train_student(standard, LawMatching(any_steps=False), 1, start, settings, seed=0)
    noise = {"draws": 2**15, "generator": torch.Generator().manual_seed(0)}
    with torch.no_grad():
        exact = terminal_law(standard.denoiser(), standard, 6, step_grid(1))
        found = terminal_law(trained.denoiser, standard, 6, step_grid(1), **noise)
    exact, found = (float(total_variation(standard.law, one)) for one in (exact, found))
    assert exact == pytest.approx(0.4465, abs=5e-5)
    assert found < exact / 5


# ---------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"gradient": "reinforce"}, "pathwise, policy, mixture"),
        ({"horizon": "step"}, "call, rollout"),
        ({"sampler": "ddim"}, "ancestral"),
        ({"masking": "all"}, "uniform, inverse, single"),
        ({"divergence": "js"}, "reverse_kl, forward_kl, jeffreys"),
        ({"maskings": 0}, "at least 1"),
        ({"data_weight": -1.0}, "at least 0"),
        ({"gradient": "policy", "divergence": "jeffreys"}, "pathwise"),
        ({"horizon": "rollout", "sampler": "jump"}, "policy"),
        ({"credit": "token"}, "rollout, call"),
        ({"credit": "call"}, "give gradient='policy'.*got 'pathwise'"),
    ],
)
def test_wrong_setting_is_told_what_there_is(settings, named):
    with pytest.raises(ValueError, match=named):
        LawMatching(**settings)


def test_credit_by_call_is_refused_where_calls_decide_nothing_for_good():
    step = step_of(FLIPS, table(FLIPS), *[problem(FLIPS, 1).denoiser()] * 2)
    with pytest.raises(ValueError, match="under Absorbing; got Uniform"):
        LawMatching(gradient="policy", horizon="rollout", credit="call")(step)


def test_missing_auxiliary_is_named():
    with pytest.raises(ValueError, match="trainable peer 'auxiliary'"):
        LawMatching()(step_of(MASKS, table(MASKS)))


def broken(share):
    """A teacher to which a share of its states is impossible."""
    whole = problem(MASKS, 1).denoiser()

    def network(x_t, t, at=None):
        log_p = whole.network(x_t, t).clone()
        rows = torch.arange(len(x_t)) < share * len(x_t)
        log_p[rows] = float("nan")
        return log_p if at is None else log_p[at]

    return NetworkDenoiser(network, MASKS, Conditional())


def test_few_rewards_that_are_not_finite_are_skipped_and_counted():
    student, auxiliary = table(MASKS), table(MASKS, seed=4)
    step = step_of(MASKS, student, broken(0.005), auxiliary, rows=1000)
    loss = LawMatching()(step)["student"]
    assert loss.isfinite() and 0 < float(step.record["skipped"]) < 0.01
    loss.backward()
    assert student.network.logits.grad.isfinite().all()


def test_many_rewards_that_are_not_finite_end_the_training():
    step = step_of(MASKS, table(MASKS), broken(0.05), table(MASKS, seed=4), rows=1000)
    with pytest.raises(ValueError, match="not finite"):
        LawMatching()(step)
