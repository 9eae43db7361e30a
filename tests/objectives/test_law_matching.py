"""Law matching on spaces that can be enumerated: its reward, its gradients, what it reaches."""

from dataclasses import replace

import pytest
import torch
from small_laws import BOTH, FLIPS, MASKS, L, mixture, problem, step_of, table

from hf_ddistill.couplings import call_numbers, roll_out
from hf_ddistill.denoisers import Latent, NetworkDenoiser
from hf_ddistill.laboratory import (
    ExactProblem,
    clean_sequences,
    kl_divergence,
    sequence_numbers,
    terminal_law,
    total_variation,
)
from hf_ddistill.laboratory.problems import exact_law
from hf_ddistill.laboratory.students import BenchSettings, fit_start, train_student
from hf_ddistill.objectives import LawMatching
from hf_ddistill.parameterizations import Conditional
from hf_ddistill.samplers import step_grid

# ---------------------------------------------------------------------------- the gradients


def test_policy_gradient_is_that_of_the_divergence_of_the_terminal_laws():
    teacher, student = problem(MASKS, 1), table(MASKS)
    law = terminal_law(student, MASKS, L, step_grid(2))
    (true,) = torch.autograd.grad(kl_divergence(law, teacher.law), student.network.logits)
    exact = ExactProblem(law.detach(), teacher.sequences, MASKS)
    step = step_of(MASKS, student, teacher.denoiser(), exact.denoiser(), 60_000, student_steps=2)
    objective = LawMatching(gradient="policy", horizon="rollout", steps="only")
    (found,) = torch.autograd.grad(objective(step)["student"], student.network.logits)
    assert torch.cosine_similarity(found.flatten(), true.flatten(), 0) > 0.98
    assert float((L * found).norm() / true.norm()) == pytest.approx(1, abs=0.06)


def test_pathwise_gradient_of_one_call_points_down_the_divergence_of_the_laws():
    """Not the same gradient (`test_integral_divergences`), but nearly its direction."""
    (student, law), teacher = mixture(), problem(MASKS, 1)
    logits = student.network.logits
    (true,) = torch.autograd.grad(kl_divergence(law, teacher.law), logits, retain_graph=True)
    exact = ExactProblem(law.detach(), teacher.sequences, MASKS)
    step = step_of(MASKS, student, teacher.denoiser(), exact.denoiser(), 60_000)
    for horizon in ("call", "bridge"):
        loss = LawMatching(horizon=horizon)(step)["student"]
        (found,) = torch.autograd.grad(loss, logits)
        assert torch.cosine_similarity(found.flatten(), true.flatten(), 0) > 0.9


def test_policy_gradient_of_a_call_by_itself_is_a_traceback():
    (student, law), teacher = mixture(), problem(MASKS, 1)
    logits, objective = student.network.logits, LawMatching(gradient="policy")
    assert objective.for_student(student).horizon == "call"
    (true,) = torch.autograd.grad(kl_divergence(law, teacher.law), logits, retain_graph=True)
    exact = ExactProblem(law.detach(), teacher.sequences, MASKS)
    step = step_of(MASKS, student, teacher.denoiser(), exact.denoiser(), 60_000)
    (found,) = torch.autograd.grad(objective(step)["student"], logits)
    assert torch.cosine_similarity(found.flatten(), true.flatten(), 0) > 0.98
    assert float((L * found).norm() / true.norm()) == pytest.approx(1, abs=0.06)
    same = step_of(MASKS, student, *(teacher.denoiser(),) * 2, rows=64, student_steps=4)
    (found,) = torch.autograd.grad(objective(same)["student"], logits)
    assert found.abs().max() < 1e-9


@pytest.mark.parametrize(
    ("diffusion", "noise", "found"),
    [
        (MASKS, None, ("policy", "rollout", "reverse_kl")),
        (MASKS, Latent(1), ("pathwise", "bridge", "mean_kl")),
        (BOTH, None, ("policy", "rollout", "reverse_kl")),
        (FLIPS, None, ("pathwise", "call", "reverse_kl")),
    ],
    ids=["masks", "masks and noise", "both", "flips"],
)
def test_what_is_not_set_follows_from_the_student(diffusion, noise, found):
    student = replace(table(diffusion), latent=noise)
    derived = LawMatching().for_student(student)
    assert (derived.gradient, derived.horizon, derived.divergence) == found
    own = LawMatching(gradient="pathwise", horizon="rollout", divergence="reverse_kl")
    assert own.for_student(student) == own


def test_what_is_set_decides_about_the_rest():
    student = replace(table(MASKS), latent=Latent(1))
    for settings, found in (
        ({"horizon": "call"}, ("pathwise", "call", "reverse_kl")),
        ({"horizon": "step"}, ("pathwise", "step", "mean_kl")),
        ({"divergence": "jeffreys"}, ("pathwise", "bridge", "jeffreys")),
        ({"gradient": "policy"}, ("policy", "call", "reverse_kl")),
        ({"sampler": "jump"}, ("pathwise", "call", "reverse_kl")),
    ):
        derived = LawMatching(**settings).for_student(student)
        assert (derived.gradient, derived.horizon, derived.divergence) == found


def test_what_a_student_cannot_have_is_refused_when_it_is_known():
    for settings in ({"divergence": "jeffreys"}, {"horizon": "step"}, {"divergence": "mean_kl"}):
        with pytest.raises(ValueError, match="noise input"):
            LawMatching(**settings).for_student(table(MASKS))
    for settings in ({"horizon": "step"}, {"horizon": "bridge"}, {"divergence": "mean_kl"}):
        with pytest.raises(ValueError, match="needs masks"):
            LawMatching(**settings).for_student(table(FLIPS))


@pytest.mark.parametrize("diffusion", [MASKS, FLIPS, BOTH], ids=["masks", "flips", "both"])
@pytest.mark.parametrize("gradient", ["pathwise", "policy"])
def test_student_with_the_teacher_s_law_is_pulled_nowhere(diffusion, gradient):
    """Auxiliary and teacher agree: every difference is 0, whatever is drawn."""
    teacher, student = problem(diffusion, 1), table(diffusion)
    horizon = {"horizon": "rollout"}
    peers = (teacher.denoiser(), teacher.denoiser())
    step = step_of(diffusion, student, *peers, rows=64, student_steps=2)
    loss = LawMatching(gradient=gradient, **horizon)(step)["student"]
    (found,) = torch.autograd.grad(loss, student.network.logits)
    assert found.abs().max() < 1e-9


@pytest.mark.parametrize("divergence", ["reverse_kl", "mean_kl"])
@pytest.mark.parametrize("horizon", ["call", "step", "bridge"])
def test_noisy_student_with_the_teacher_s_law_is_pulled_nowhere(horizon, divergence):
    teacher, (student, _) = problem(MASKS, 1), mixture()
    step = step_of(MASKS, student, *(teacher.denoiser(),) * 2, rows=64, student_steps=4)
    loss = LawMatching(horizon=horizon, divergence=divergence)(step)["student"]
    (found,) = torch.autograd.grad(loss, student.network.logits)
    assert found.abs().max() < 1e-9


@pytest.mark.parametrize("horizon", ["call", "step", "bridge"])
def test_auxiliary_of_laws_ends_half_way_to_the_teacher(horizon):
    """Half way from the teacher's conditionals to the student's its gradient is 0."""
    (student, law), teacher = mixture(), problem(MASKS, 1)
    own = ExactProblem(law.detach(), teacher.sequences, MASKS)
    states = own.states
    p_s, p_t = (each.log_conditional(states, 0.5).exp() for each in (own, teacher))
    auxiliary = table(MASKS)
    settings = {"horizon": horizon, "divergence": "mean_kl", "steps": "only"}

    def gradient(law):
        auxiliary.network.logits.data.copy_(law.clamp_min(1e-30).log())
        step = step_of(MASKS, student, teacher.denoiser(), auxiliary, 40_000)
        loss = LawMatching(**settings)(step)["auxiliary"]
        (found,) = torch.autograd.grad(loss, auxiliary.network.logits)
        return float(found.norm()), float(step.log.figures["auxiliary_lag"])

    (at_end, lag), (before, _) = map(gradient, ((p_s + p_t) / 2, p_t))
    assert at_end < 0.05 * before
    assert abs(lag) < 0.05  # it has caught up


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


# ---------------------------------------------------------------------------- rollouts


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
    assert call_numbers(step, "each_number").unique().tolist() == [1, 2, 4, 6]
    assert call_numbers(step, "only").unique().tolist() == [6]
    each = call_numbers(step, "each_call")
    shares = torch.stack([(each == n).double().mean() for n in (1, 2, 4, 6)])
    assert torch.allclose(shares, torch.tensor([1, 2, 4, 6]).double() / 13, atol=0.05)


# ---------------------------------------------------------------------------- what it reaches


@pytest.mark.slow
def test_one_call_beats_the_exact_teacher_s_total_variation_five_times():
    law = exact_law("digits")
    standard = ExactProblem(law.law, law.sequences, MASKS)
    rates = {"learning_rate": 2e-3, "auxiliary_learning_rate": 4e-3}
    settings = BenchSettings(calls=1200, rows=256, start_steps=150, width=128, **rates)
    start = fit_start(standard, settings)
    trained = train_student(standard, LawMatching(steps="only"), 1, start, settings, seed=0)
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
        ({"gradient": "reinforce"}, "None, pathwise, policy"),
        ({"horizon": "stop"}, "call, step, bridge, rollout"),
        ({"horizon": "step", "gradient": "policy"}, "pathwise"),
        ({"horizon": "bridge", "gradient": "policy"}, "horizon='bridge' needs .*'pathwise'"),
        ({"divergence": "mean_kl", "gradient": "policy"}, "pathwise"),
        ({"horizon": "step", "sampler": "jump"}, "ancestral"),
        ({"horizon": "bridge", "sampler": "jump"}, "horizon='bridge' give .*'ancestral'"),
        ({"sampler": "ddim"}, "ancestral"),
        ({"steps": "any"}, "each_number, each_call, only"),
        ({"divergence": "js"}, "reverse_kl, forward_kl, jeffreys, mean_kl"),
        ({"maskings": 0}, "at least 1"),
        ({"gradient": "policy", "divergence": "jeffreys"}, "pathwise"),
        ({"gradient": "pathwise", "horizon": "rollout", "sampler": "jump"}, "policy"),
    ],
)
def test_wrong_setting_is_told_what_there_is(settings, named):
    with pytest.raises(ValueError, match=named):
        LawMatching(**settings)


def test_missing_auxiliary_is_named():
    with pytest.raises(ValueError, match="lacks auxiliary, teacher"):
        LawMatching()(step_of(MASKS, table(MASKS)))


def broken(share):
    """A teacher to which a share of its states is impossible."""
    whole = problem(MASKS, 1).denoiser()

    def network(x_t, t, at=None):
        log_p = whole.network(x_t, t).clone()
        rows = torch.arange(len(x_t)) < share * len(x_t)
        log_p[rows] = float("nan")
        return log_p if at is None else log_p.flatten(0, 1)[at]

    return NetworkDenoiser(network, MASKS, Conditional())


def test_few_rewards_that_are_not_finite_are_skipped_and_counted():
    student, auxiliary = table(MASKS), table(MASKS, seed=4)
    step = step_of(MASKS, student, broken(0.005), auxiliary, rows=1000)
    loss = LawMatching()(step)["student"]
    assert loss.isfinite() and 0 < float(step.log.figures["skipped"]) < 0.01
    loss.backward()
    assert student.network.logits.grad.isfinite().all()


def test_many_rewards_that_are_not_finite_end_the_training():
    step = step_of(MASKS, table(MASKS), broken(0.05), table(MASKS, seed=4), rows=1000)
    with pytest.raises(ValueError, match="not finite"):
        LawMatching()(step)
