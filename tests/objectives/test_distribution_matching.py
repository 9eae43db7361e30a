"""Distribution matching and Simplex-DMD: fixed points, targets of the auxiliary, refusals."""

from __future__ import annotations

import pytest
import torch
from small_laws import BOTH, FLIPS, MASKS, L, mixture, problem, step_of, table

from hf_ddistill.denoisers import NetworkDenoiser
from hf_ddistill.laboratory import ExactProblem, sequence_numbers
from hf_ddistill.objectives import DistributionMatching, SimplexDMD

PAPERS = [DistributionMatching(name) for name in ("d_mmd", "idlm", "di_mo")]
BACKWARD = DistributionMatching("di_mo", jeffrey=1.0)


@pytest.mark.parametrize("diffusion", [MASKS, FLIPS, BOTH], ids=["masks", "flips", "both"])
@pytest.mark.parametrize(
    "objective",
    [*PAPERS, BACKWARD, SimplexDMD(), SimplexDMD(score="stein"), SimplexDMD(times="grid")],
    ids=["d_mmd", "idlm", "di_mo", "di_mo_1", "simplex", "stein", "grid"],
)
def test_student_with_the_teacher_s_law_is_pulled_somewhere(diffusion, objective):
    """Auxiliary and teacher agree: every difference is 0, whatever is drawn."""
    student, teacher = table(diffusion), problem(diffusion, 1)
    if not diffusion.reveals and objective == SimplexDMD(score="stein"):
        pytest.skip("Of masks.")
    step = step_of(diffusion, student, teacher.denoiser(), teacher.denoiser(), 64, student_steps=2)
    (found,) = torch.autograd.grad(objective(step)["student"], student.network.logits)
    assert found.abs().max() < 1e-9
    other = step_of(diffusion, student, teacher.denoiser(), table(diffusion, 4), 64)
    (found,) = torch.autograd.grad(objective(other)["student"], student.network.logits)
    assert found.abs().max() > 1e-6


def test_di_mo_s_gradient_of_a_product_is_another_than_that_of_the_rest():
    """Where the auxiliary says what the student does: with beta = 1 the papers are one; with 0 it
    is the gradient of KL(teacher's marginals || student) at the start."""
    student, teacher = table(MASKS), problem(MASKS, 1)
    blank = sequence_numbers(torch.full((1, L), 2), 3)
    start = student.network.logits[blank[0]].detach()[None]

    def product(x_t, t, at=None):
        output = start.expand(len(x_t), L, 3)
        return output if at is None else output.flatten(0, 1)[at]

    alike = NetworkDenoiser(product, MASKS, student.parameterization)
    found = {}
    for beta in (None, 1.0, 0.0):
        start_at = {"start": "noise", "renoise": "arccos", "weight": "mean"}
        objective = DistributionMatching("d_mmd", jeffrey=beta, **start_at)
        step = step_of(MASKS, student, teacher.denoiser(), alike, 512)
        loss = objective(step)["student"]
        (found[beta],) = torch.autograd.grad(loss, student.network.logits)
    torch.testing.assert_close(found[1.0], found[None])
    assert (found[0.0] - found[None]).abs().max() > 1e-3


def auxiliary_gradient(objective, student, teacher, auxiliary, seed=7, rows=2048):
    step = step_of(MASKS, student, teacher, auxiliary, rows)
    step.generator.manual_seed(seed)
    (found,) = torch.autograd.grad(objective(step)["auxiliary"], auxiliary.network.logits)
    return found


def test_soft_targets_have_another_mean_or_no_less_variance():
    student, teacher, auxiliary = table(MASKS), problem(MASKS, 1).denoiser(), table(MASKS, 4)
    found = {}
    for targets in ("drawn", "soft"):
        objective = DistributionMatching("d_mmd", targets=targets)
        found[targets] = torch.stack(
            [auxiliary_gradient(objective, student, teacher, auxiliary, seed) for seed in range(24)]
        )
    mean = {name: each.mean(0) for name, each in found.items()}
    error = (found["drawn"].var(0) / 24).sum().sqrt()
    assert (mean["drawn"] - mean["soft"]).norm() < 2 * error
    assert found["soft"].var(0).sum() < 0.8 * found["drawn"].var(0).sum()


@pytest.mark.parametrize("targets", ["drawn", "soft", "squared", "anchored"])
def test_auxiliary_learns_another_law_than_the_student_s(targets):
    """Its gradient is 0 at the conditionals of the student's law; where it is told of the teacher,
    too, half way between both."""
    (student, law), teacher = mixture(), problem(MASKS, 1)
    own = ExactProblem(law.detach(), teacher.sequences, MASKS)
    states = own.states
    right = own.log_conditional(states, 0.5).exp()
    if targets == "anchored":
        right = (right + teacher.log_conditional(states, 0.5).exp()) / 2
    place = sequence_numbers(states, 3)
    best, other = table(MASKS, 4), table(MASKS, 4)
    best.network.logits.data[place] = right.clamp_min(1e-12).log()
    objective = DistributionMatching("idlm", start="noise", targets=targets)
    sizes = [
        auxiliary_gradient(objective, student, teacher.denoiser(), each, rows=40_000).norm()
        for each in (best, other)
    ]
    assert sizes[0] < 0.04 * sizes[1]


@pytest.mark.parametrize("start", ["idlm", "simplex"])
@pytest.mark.parametrize("targets", ["drawn", "soft", "squared", "anchored", "smoothed"])
def test_auxiliary_lags_until_it_knows_what_it_is_taught(targets, start, monkeypatch):
    monkeypatch.setattr("hf_ddistill.objectives.log_ratio.LOOKED_AT", 2**30)
    if start == "idlm":
        objective = DistributionMatching("idlm", start="noise", targets=targets)
    elif targets in ("anchored", "smoothed"):
        pytest.skip("Of distribution matching.")
    else:
        objective = SimplexDMD(times="grid", targets=targets)
    (student, law), teacher = mixture(), problem(MASKS, 1)
    own = ExactProblem(law.detach(), teacher.sequences, MASKS)
    right, of_teacher = (
        each.log_conditional(own.states, 0.5).exp().clamp_min(1e-12) for each in (own, teacher)
    )
    if targets == "anchored":
        right = (right + of_teacher) / 2
    elif targets == "smoothed":
        right = 0.9 * right + 0.1 * torch.tensor([0.5, 0.5, 0.0])
    place, lags = sequence_numbers(own.states, 3), []
    for known in (right, of_teacher):
        auxiliary = table(MASKS, 4)
        auxiliary.network.logits.data[place] = known.clamp_min(1e-12).log()
        step = step_of(MASKS, student, teacher.denoiser(), auxiliary, rows=40_000)
        objective(step)
        lags.append(float(step.log.figures["auxiliary_lag"]))
    assert abs(lags[0]) < 0.01 < 0.05 < lags[1]


def test_smoothed_labels_are_on_the_mask_or_of_another_share():
    """At equal chances of all tokens of data: the gradient of drawn ones less a tenth."""
    student, teacher, auxiliary = table(MASKS), problem(MASKS, 1).denoiser(), table(MASKS, 4)
    auxiliary.network.logits.data[:] = 0.0
    found = {
        targets: auxiliary_gradient(
            DistributionMatching("di_mo", targets=targets), student, teacher, auxiliary
        )
        for targets in ("drawn", "smoothed")
    }
    torch.testing.assert_close(found["smoothed"], 0.9 * found["drawn"])


@pytest.mark.parametrize("tell", [True, False])
@pytest.mark.parametrize("diffusion", [MASKS, FLIPS], ids=["masks", "flips"])
def test_auxiliary_is_told_another_time_than_the_start_of_the_draw_where_states_show_theirs(
    diffusion, tell
):
    """Else it learns the mixture over starts, in which errors of one make up for another's."""
    teacher, times = problem(diffusion, 1).denoiser(), []

    def network(x_t, t, at=None):
        times.append(t)
        output = torch.zeros(*x_t.shape, diffusion.vocab_size)
        return output if at is None else output.flatten(0, 1)[at]

    auxiliary = NetworkDenoiser(network, diffusion, teacher.parameterization)
    step = step_of(diffusion, table(diffusion), teacher, auxiliary, 64)
    SimplexDMD(times="grid", tell=tell)(step)
    starts = (times[0] == 1).all()
    assert bool(starts) == (tell and diffusion.reveals)


@pytest.mark.parametrize("renoise", ["bridge", "forward", "arccos"])
@pytest.mark.parametrize("start", ["data", "grid", "grids", "noise"])
def test_every_start_meets_every_state(start, renoise):
    for diffusion in (MASKS, FLIPS):
        student, teacher = table(diffusion), problem(diffusion, 1)
        given = (teacher.denoiser(), table(diffusion, 4))
        step = step_of(diffusion, student, *given, 64, student_steps=3)
        losses = DistributionMatching(start=start, renoise=renoise)(step)
        assert all(loss.isfinite() for loss in losses.values()) and set(losses) == {
            "student",
            "auxiliary",
        }


@pytest.mark.parametrize("start", ["data", "grid"])
def test_a_bridge_ends_elsewhere_than_where_the_student_s_call_does(start):
    """Within a step: from far below, what early and late calls drew could not be told apart (total
    variation .0630 at four calls, and .0142 within the step)."""
    step = step_of(MASKS, table(MASKS), rows=512, student_steps=3)
    s, t = DistributionMatching(start=start)._times(step)
    assert ((s < t) & (t - s <= 1 / 3 + 1e-9) & (s > 0) & (t <= 1)).all()
    assert (t - s).min() < 0.05 and (t - s).max() > 0.25
    if start == "grid":
        assert set((3 * t).tolist()) == {1.0, 2.0, 3.0}


def test_grids_are_those_of_every_number_of_calls_alike():
    """A student of the grid of eight calls is never shown what one and two calls ask: .009 nats
    ahead of its teacher in one call of text, for 1.2 where it was trained for one."""
    step = step_of(MASKS, table(MASKS), rows=8192, student_steps=4)
    s, t = DistributionMatching(start="grids")._times(step)
    share = {float(at): float((t == at).double().mean()) for at in t.unique()}
    # One call has 1; two 1, 1/2; four 1, 3/4, 1/2, 1/4.
    expected = {0.25: 1 / 12, 0.5: 1 / 6 + 1 / 12, 0.75: 1 / 12, 1.0: 1 / 3 + 1 / 6 + 1 / 12}
    assert share == pytest.approx(expected, abs=0.02)
    # At 1 each of the three ends elsewhere: uniform in (0, 1), (1/2, 1) and (3/4, 1).
    late = (s[t == 1] < 0.5).double().mean()
    assert float(late) == pytest.approx((1 / 3 / 2) / expected[1.0], abs=0.03)
    assert ((s < t) & (s > 0)).all()


def test_waiting_student_costs_no_graph_and_gets_no_loss():
    for objective in (DistributionMatching(), SimplexDMD()):
        student, auxiliary = table(MASKS), table(MASKS, 4)
        given = (problem(MASKS, 1).denoiser(), auxiliary)
        step = step_of(MASKS, student, *given, train=frozenset({"auxiliary"}))
        losses = objective(step)
        assert set(losses) == {"auxiliary"}
        losses["auxiliary"].backward()
        assert student.network.logits.grad is None
        losses = objective(step_of(MASKS, student, *given))
        losses["student"].backward()
        assert auxiliary.network.logits.grad.isfinite().all()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: DistributionMatching("dmd"), "Unknown setting 'dmd'; there are: d_mmd, idlm"),
        (lambda: DistributionMatching(start="prior"), "Unknown start"),
        (lambda: DistributionMatching(targets="hard"), "drawn, soft, squared, anchored"),
        (lambda: DistributionMatching(jeffrey=float("nan")), "jeffrey must be a finite number"),
        (
            lambda: DistributionMatching("idlm", renoise="bridge").for_student(table(FLIPS)),
            "'uniform' is of states of the draw alone.*give renoise='forward'",
        ),
        (
            lambda: DistributionMatching(targets="soft").for_student(table(FLIPS)),
            "give targets='drawn'",
        ),
        (lambda: SimplexDMD(times="late"), "Unknown times"),
        (lambda: SimplexDMD(score="stein").for_student(table(FLIPS)), "under masks alone"),
        (lambda: SimplexDMD(targets="soft").for_student(table(FLIPS)), "give targets='drawn'"),
        (lambda: SimplexDMD()(step_of(MASKS, table(MASKS))), "lacks auxiliary, teacher"),
    ],
)
def test_wrong_setting_is_told_what_there_is(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_a_paper_s_settings_are_not_in_the_configuration():
    config = DistributionMatching("di_mo").to_config()
    assert config["start"] == "noise" and config["jeffrey"] == 0.0
    assert DistributionMatching.from_config(config).one_call
