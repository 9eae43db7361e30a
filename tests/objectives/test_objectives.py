"""ECD: exact expectations over every pair of states, and short training."""

from __future__ import annotations

import dataclasses
import json
from functools import partial

import pytest
import torch
from enumeration import (
    _At,
    digits,
    expectation,
    fixed_point,
    forward_joint,
    oracle,
    stepped_joint,
    tabular,
    training_step,
)
from exact_bayes import ExactBayes, total_variation

from hf_ddistill.denoisers import NetworkDenoiser
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.divergences import Divergence
from hf_ddistill.objectives import ECD, NELBO, Objective
from hf_ddistill.processes import Absorbing, General, Process, Uniform
from hf_ddistill.samplers import Ancestral, step_grid
from hf_ddistill.schedules import LogLinear
from hf_ddistill.shapes import LOG_ZERO

K, L = 4, 2
S, T = 0.3, 0.7
each_process = pytest.mark.parametrize("cls", Process.registry.values(), ids=lambda cls: cls.id)
both = pytest.mark.parametrize("cls", [Absorbing, Uniform], ids=lambda cls: cls.id)


def small(cls, eps=1e-3):
    return ExactBayes.random(Diffusion(cls.example(K), LogLinear(eps)), L, seed=1)


def exact_table(problem, t):
    return tabular(problem, problem.conditional(t).log().clamp_min(LOG_ZERO))


def gradient(loss, student):
    (grad,) = torch.autograd.grad(loss, student.network.logits)
    return grad


# ---------------------------------------------------------------------------- padding


@both
@pytest.mark.parametrize("objective", [NELBO(), ECD(), ECD(coupling="teacher")])
def test_padding_changes_no_loss_and_meets_no_gradient(cls, objective):
    problem = small(cls)
    attend = torch.ones(64, L, dtype=torch.bool)
    attend[::2, 1] = False
    student = tabular(problem)

    def with_padding(garbage):
        def network(x_t, t, at=None):
            output = torch.where(attend[..., None], student.network(x_t, t), garbage)
            return output if at is None else output.flatten(0, 1)[at]

        return NetworkDenoiser(network, problem.diffusion, student.parameterization)

    losses = [
        objective(training_step(problem, with_padding(garbage), attend=attend))["student"]
        for garbage in (0.0, 5.0, float("nan"))
    ]
    assert losses[0] == losses[1] == losses[2]
    assert gradient(losses[2], student).isfinite().all()


@both
@pytest.mark.parametrize("objective", [NELBO(), ECD(), ECD(coupling="forward")])
def test_batch_without_an_open_position_costs_nothing_and_is_no_nan(cls, objective):
    problem = small(cls)
    attend = torch.zeros(64, L, dtype=torch.bool)
    student = tabular(problem)
    loss = objective(training_step(problem, student, attend=attend))["student"]
    assert loss == 0 and (gradient(loss, student) == 0).all()


# ---------------------------------------------------------------------------- ECD's optimum


@each_process
@pytest.mark.parametrize("divergence", ["cross_entropy", "forward_kl"])
def test_exact_student_meets_no_gradient_under_forward_pairs(cls, divergence):
    problem = small(cls)
    loss = partial(expectation, partial(ECD, divergence), problem)
    joint = forward_joint(problem, S, T)
    exact, other = exact_table(problem, T), tabular(problem)
    assert gradient(loss(exact, joint, S, T), exact).abs().max() < 1e-12
    assert gradient(loss(other, joint, S, T), other).abs().max() > 1e-3


def test_exact_student_meets_no_gradient_where_rates_do_not_commute():
    """Up to the error that the process states of its kernels; the wrong student is far beyond."""
    first = torch.tensor(General.example(K).matrix, dtype=torch.float64)
    process = General(knots=((0.0, first), (0.8, first.flip(0, 1))), tolerance=1e-5)
    assert process.commutator > 0.1 and process.error_bound <= 1e-5
    problem = ExactBayes.random(Diffusion(process, LogLinear()), L, seed=1)
    loss, joint = partial(expectation, ECD, problem), forward_joint(problem, S, T)
    exact, other = exact_table(problem, T), tabular(problem)
    assert gradient(loss(exact, joint, S, T), exact).abs().max() < 10 * process.error_bound
    assert gradient(loss(other, joint, S, T), other).abs().max() > 1e-3


@each_process
def test_student_steps_have_the_fixed_point_of_two_steps_marginals(cls):
    """q(x_t) = E_{x_s ~ step of q}[p(x_0 | x_s)]: near the teacher, and not the teacher."""
    problem = ExactBayes.random(Diffusion(cls.example(K)), 3, seed=1)
    loss = partial(expectation, ECD, problem)
    q = fixed_point(problem, S, T, 40)
    fixed, exact = tabular(problem, q.log().clamp_min(LOG_ZERO)), exact_table(problem, T)
    for student, still in ((fixed, True), (exact, False)):
        with torch.no_grad():
            joint = stepped_joint(problem, student, Ancestral(), S, T)
        size = float(gradient(loss(student, joint, S, T), student).abs().max())
        assert size < 1e-9 if still else size > 1e-6


@both
def test_reverse_kl_has_the_geometric_mean_for_its_optimum(cls):
    """Under Absorbing over the pasts that have not revealed the token; others are left out."""
    problem = small(cls)
    joint = forward_joint(problem, S, T)
    target = problem.conditional(S).log().clamp_min(LOG_ZERO)
    share = joint[..., None] * problem.diffusion.undetermined(problem.states)[None]
    mean = torch.einsum("xsl,slk->xlk", share, target) / share.sum(1)[..., None]
    student = tabular(problem, mean.log_softmax(-1).clamp_min(LOG_ZERO))
    loss = expectation(partial(ECD, "reverse_kl"), problem, student, joint, S, T)
    assert gradient(loss, student).abs().max() < 1e-12
    exact = exact_table(problem, T)
    loss = expectation(partial(ECD, "reverse_kl"), problem, exact, joint, S, T)
    assert gradient(loss, exact).abs().max() > 1e-5


@pytest.mark.parametrize(
    ("process", "steps", "teacher_tv", "fixed_tv"),
    [
        (Absorbing(3), 2, 0.2216, 0.2238),
        (Absorbing(3), 4, 0.1121, 0.1143),
        (Uniform(2), 1, 0.4465, 0.4465),
        (Uniform(2), 2, 0.2911, 0.2913),
    ],
    ids=["absorbing-2", "absorbing-4", "uniform-1", "uniform-2"],
)
def test_ecd_stays_on_the_teacher_s_curve(process, steps, teacher_tv, fixed_tv):
    """The standard problem's published figures: s is the next time of the student's grid.

    To s = 0 every student is its own fixed point; there it is the exact one.
    """
    problem = digits(Diffusion(process, LogLinear(eps=1e-9)))
    grid = step_grid(steps)
    tables = [problem.conditional(t) for t in grid[:-1]]

    def tv():
        def network(x_t, t, at=None):
            number = ((1 - t) * steps).round().long()
            return torch.stack(tables)[number, problem.index(x_t)].log().clamp_min(LOG_ZERO)

        denoiser = NetworkDenoiser(network, problem.diffusion, oracle(problem).parameterization)
        return total_variation(problem.terminal_law(denoiser, steps), problem.data)

    assert tv() == pytest.approx(teacher_tv, abs=5e-5)
    for i in range(steps - 1):
        tables[i] = fixed_point(problem, grid[i + 1], grid[i], 20)
    assert tv() == pytest.approx(fixed_tv, abs=5e-5)


@both
@pytest.mark.parametrize("coupling", ["forward", "student"])
def test_value_by_draws_is_the_value_by_enumeration(cls, coupling):
    """Guards the draws, the positions they are put at, and the mean over tokens."""
    problem, student = small(cls), tabular(small(cls))
    coupling = {"type": coupling} | ({"sampler": "ancestral"} if coupling == "student" else {})
    joint = (
        forward_joint(problem, S, T)
        if coupling["type"] == "forward"
        else stepped_joint(problem, student, Ancestral(), S, T).detach()
    )
    expected = float(expectation(ECD, problem, student, joint, S, T).detach())
    drawn = ECD(coupling=coupling, times=_At(S, T))
    values = torch.stack(
        [
            drawn(training_step(problem, student, 2048, seed))["student"].detach()
            for seed in range(6)
        ]
    )
    assert values.std() < 0.05 * expected
    assert abs(float(values.mean()) - expected) < 4 * float(values.std()) / 6**0.5


# ---------------------------------------------------------------------------- options


@both
@pytest.mark.parametrize("divergence", Divergence.registry)
def test_all_of_the_top_k_are_the_whole(cls, divergence):
    problem = small(cls)
    student = tabular(problem)
    results = []
    for option in ({}, {"top_k": K}):
        ecd = ECD(divergence=divergence, coupling="forward", **option)
        loss = ecd(training_step(problem, student))["student"]
        results.append((loss.detach(), gradient(loss, student)))
    for loss, grad in results[1:]:
        torch.testing.assert_close(loss, results[0][0], rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(grad, results[0][1], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", Objective.registry)
def test_an_objective_has_six_settings_at_most(name):
    own = Objective.named(name)
    ours = own.__module__.startswith("hf_ddistill.")  # and no experiment of another test
    assert len(dataclasses.fields(own)) <= 6 or not ours


@pytest.mark.parametrize("name", Objective.registry)
def test_config_survives_json(name):
    objective = Objective.named(name)()
    config = json.loads(json.dumps(objective.to_config()))
    assert Objective.from_config(config) == objective
    assert config["type"] == name


def test_settings_survive_json():
    objective = ECD(
        divergence={"type": "jensen_shannon", "beta": 0.3},
        coupling={"type": "teacher", "substeps": 4},
        times={"type": "adaptive_times", "grid": True},
        top_k=8,
    )
    again = Objective.from_config(json.loads(json.dumps(objective.to_config())))
    assert again == objective
    assert again.divergence.beta == 0.3 and again.coupling.substeps == 4 and again.times.grid


@pytest.mark.parametrize(
    ("settings", "listed"),
    [
        ({"divergence": "kl"}, "forward_kl"),
        ({"coupling": "froward"}, "did you mean 'forward'"),
        ({"times": "random"}, "grid_times"),
        ({"coupling": {"type": "student", "sampler": "exact"}}, "tau_leaping"),
        ({"coupling": {"type": "teacher", "substeps": 0}}, "at least 1"),
        ({"times": {"type": "adaptive_times", "explore": 0.0}}, "explore"),
    ],
)
def test_unknown_setting_is_told_what_there_is(settings, listed):
    with pytest.raises(ValueError, match=listed):
        ECD(**settings)


def test_unknown_objective_is_told_what_there_is():
    with pytest.raises(ValueError, match="nelbo"):
        Objective.from_config("elbow")
