"""The distillation of diffusion language models, on a law that is known: 2 x 3 patches of digits,
two blocks of three pixels."""

from dataclasses import replace

import pytest
import torch
from block_views import (
    Views,
    decode,
    deviations,
    drawn_from,
    exact_views,
    random_order,
    random_views,
    step_of,
    steps_of,
)

from hf_ddistill.couplings import TrainingStep, Trajectory
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.objectives import CDLM, D2F, T3D, DParallel, Objective, PseudoTrajectory
from hf_ddistill.objectives.blocks.dparallel import entropy_where_right
from hf_ddistill.objectives.blocks.hints import Hints, informed_teacher
from hf_ddistill.processes import Uniform
from hf_ddistill.unmasking import Threshold

b, L = 3, 6


# ---------------------------------------------------------------------------- d2f


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl"])
def test_student_with_the_teacher_s_view_meets_no_gradient(divergence):
    teacher, problem = exact_views(L)
    student = Views(teacher.logits.data, L)
    step = step_of(drawn_from(problem, 64, 0), student, teacher)
    loss = D2F(block_size=L, divergence=divergence)(step)["student"]
    assert torch.autograd.grad(loss, student.logits)[0].abs().max() < 1e-12
    step = replace(step, student=random_views(L, L).denoiser())
    assert D2F(block_size=L, divergence=divergence)(step)["student"] > 0.05


def test_forward_d2f_rests_at_the_mean_of_what_is_hidden_and_the_paper_s_does_not():
    teacher, problem = exact_views(L)
    student = Views(teacher.logits.data, b)
    for divergence, rests in (("forward_kl", True), ("reverse_kl", False)):
        objective = D2F(block_size=b, divergence=divergence)
        found = deviations(objective, student, steps_of(problem, student, teacher))
        assert found < 4.5 if rests else found > 7, (divergence, found)


def test_d2f_student_sees_noisy_blocks_and_the_teacher_all_of_them():
    teacher, problem = exact_views(L)
    student = Views(teacher.logits.data, b)
    step = step_of(drawn_from(problem, 4000, 0), student, teacher)
    D2F(block_size=b, masks=(0.2, 0.8))(step)
    (seen,), (shown,) = student.calls, teacher.calls
    assert seen["block_size"] == b and seen["clean"] is None and shown["block_size"] == L
    assert (seen["x"] == shown["x"]).all()
    shares = (seen["x"] == 2).double().unflatten(1, (2, b)).mean((0, 2))
    # Two sorted uniform draws have means of a third and two thirds.
    assert torch.allclose(shares, torch.tensor([0.4, 0.6]).double(), atol=0.03)


def test_weight_of_d2f_is_one_over_the_share_of_masks():
    teacher, problem = exact_views(L)
    student = random_views(L, b)
    losses = [
        D2F(block_size=b, masks=(0.5, 0.5), weighted=weighted)(
            step_of(drawn_from(problem, 64, 0), student, teacher)
        )["student"]
        for weighted in (True, False)
    ]
    assert torch.isclose(losses[0], 2 * losses[1])


# ---------------------------------------------------------------------------- hints


def test_hinted_teacher_moves_no_target_beyond_the_limit():
    teacher, problem = exact_views(L)
    x_0 = drawn_from(problem, 256, 0)
    step = step_of(x_0, random_views(L, b), teacher)
    x_t = torch.full_like(x_0, 2)
    where = torch.ones_like(x_0, dtype=torch.bool)
    plain = informed_teacher(step, x_t, where, None)
    moved = []
    for limit in (None, 0.05, 0.0):
        step = step_of(x_0, random_views(L, b), teacher)
        hinted = informed_teacher(step, x_t, where, Hints(0.6, limit))
        assert 0.3 < hinted.where.double().mean() < 0.5, "what it was shown is no target"
        log_q = plain.prediction.log_conditional[hinted.where[where], 0]
        log_p = hinted.prediction.log_conditional[:, 0]
        moved.append((log_p.exp() * (log_p - log_q))[:, :2].sum(-1))
        assert torch.allclose(log_p.exp().sum(-1), torch.ones(1, dtype=log_p.dtype))
    assert moved[0].max() > 0.5 and moved[1].max() <= 0.05 + 1e-9 and moved[2].abs().max() < 1e-6


def test_hints_teach_nothing_where_the_data_are_the_same():
    """The forward divergence rests at the same student, with hints or without."""
    teacher, problem = exact_views(L)
    student = Views(teacher.logits.data, L)
    objective = D2F(block_size=L, hints=Hints(0.5))
    assert deviations(objective, student, steps_of(problem, student, teacher)) < 4.5


@pytest.mark.parametrize("cls", [D2F, CDLM])
@pytest.mark.parametrize("more", [{"sees": 1.0}, {"limit": -1.0}, {"shows": 0.5}])
def test_hints_out_of_range_are_refused(cls, more):
    with pytest.raises(ValueError, match="hints"):
        cls(hints=more)


# ---------------------------------------------------------------------------- dparallel


def test_certainty_is_forced_only_where_the_student_is_right():
    log_p = torch.tensor([[0.6, 0.4], [0.6, 0.4], [0.3, 0.7]]).log().requires_grad_()
    entropy, share = entropy_where_right(log_p, torch.tensor([0, 1, 1]), 0.5)
    (grad,) = torch.autograd.grad(entropy, log_p)
    assert (
        (grad[1] == 0).all()
        and (grad[[0, 2]] != 0).all()
        and torch.isclose(share, torch.tensor(2 / 3).double())
    )
    sharper = torch.tensor([0.36, 0.16]) / 0.52
    other = torch.tensor([0.09, 0.49]) / 0.58
    expected = -((sharper * sharper.log()).sum() + (other * other.log()).sum()) / 2
    assert torch.isclose(entropy, expected)
    assert entropy_where_right(log_p, torch.tensor([1, 1, 0]), 0.5)[0] == 0


@pytest.mark.parametrize("every", [False, True])
def test_the_two_states_of_dparallel_mask_every_token_once(every):
    teacher, problem = exact_views(b)
    x_0 = drawn_from(problem, 200, 0)
    step = step_of(x_0, teacher, teacher, trajectory=random_order(x_0.shape, b, 0))
    DParallel(every_block=every)(step)
    first, second = teacher.calls
    assert not (first["at"] & second["at"]).any()
    targets = (first["at"] | second["at"]).unflatten(1, (2, b))
    assert (targets.all(-1) == targets.any(-1)).all()
    assert (targets.all(-1).sum(1) == (2 if every else 1)).all()
    for call in (first, second):
        is_mask = call["x"] == 2
        assert (is_mask | ~call["at"]).all() and (call["clean"] is not None) == every
        before = ~targets.any(-1)[:, 0]
        assert every or not is_mask[before, :b].any(), "blocks before the active one are finished"
        assert every or is_mask[~before, b:].all(), "blocks after it are masks"


def test_dparallel_reaches_the_same_quality_in_fewer_calls():
    teacher, problem = exact_views(b)
    student = Views(teacher.logits.data.clamp_min(-12), b)
    rule = Threshold(0.85)
    optimizer = torch.optim.Adam([student.logits], lr=0.03)
    for step in steps_of(problem, student, teacher, rows=256, count=60):
        optimizer.zero_grad()
        DParallel(block_size=b, every_block=True)(step)["student"].backward()
        optimizer.step()
    law = problem.law[torch.arange(64)]
    found = {}
    for name, network in (("teacher", teacher), ("student", student)):
        x, _, calls = decode(network, rule, 2000, L, seed=1)
        number = (x * 2 ** torch.arange(L - 1, -1, -1)).sum(1)
        found[name] = (float(calls.mean()), float(law[number].log().mean()))
    assert found["student"][0] < 0.8 * found["teacher"][0], found
    assert found["student"][1] > found["teacher"][1] - 0.05, found


# ---------------------------------------------------------------------------- all of them

FAMILY = [D2F(block_size=b), DParallel(block_size=b), CDLM(), PseudoTrajectory(), T3D()]
each_objective = pytest.mark.parametrize("objective", FAMILY, ids=lambda o: o.id)


@each_objective
def test_objective_comes_back_from_its_configuration(objective):
    assert Objective.from_config(objective.to_config()) == objective


@each_objective
def test_padding_and_prompts_are_no_targets_and_change_nothing(objective):
    teacher, problem = exact_views(b)
    student = random_views(L, b)
    x_0 = drawn_from(problem, 30, 0)
    attend = torch.ones_like(x_0, dtype=torch.bool)
    attend[:, -1] = False
    rounds = random_order(x_0.shape, b, 0).rounds.masked_fill(~attend, -1)
    more = {"attend": attend}
    if objective.id != "d2f":
        more["trajectory"] = Trajectory(rounds, b)
    objective(step_of(x_0, student, teacher, **more))
    for call in student.calls + teacher.calls:
        assert not call["at"][:, -1].any() and (call["x"][:, -1] == x_0[:, -1]).all()


@each_objective
def test_row_without_a_decoded_token_is_no_target_and_no_nan(objective):
    teacher, problem = exact_views(b)
    student = random_views(L, b)
    x_0 = drawn_from(problem, 4, 0)
    rounds = torch.full_like(x_0, -1)
    rounds[0, 4] = 0
    more = {"attend": rounds >= 0, "trajectory": Trajectory(rounds, b)}
    loss = objective(step_of(x_0, student, teacher, **more))["student"]
    (grad,) = torch.autograd.grad(loss, student.logits)
    assert loss.isfinite() and grad.isfinite().all()
    for call in student.calls + teacher.calls:
        assert not call["at"][1:].any() and (call["x"][1:] == x_0[1:]).all()


@pytest.mark.parametrize("objective", FAMILY[2:], ids=lambda o: o.id)
def test_step_without_a_trajectory_is_refused(objective):
    teacher, problem = exact_views(b)
    with pytest.raises(ValueError, match="no trajectory"):
        objective(step_of(drawn_from(problem, 4, 0), teacher, teacher))


@pytest.mark.parametrize(
    "objective", [D2F(), DParallel(block_size=4), CDLM(block_size=4)], ids=lambda o: o.id
)
def test_blocks_that_do_not_divide_the_length_are_refused(objective):
    teacher, problem = exact_views(b)
    with pytest.raises(ValueError, match="do not divide a length of 6"):
        x_0 = drawn_from(problem, 4, 0)
        objective(step_of(x_0, teacher, teacher, trajectory=random_order(x_0.shape, b, 0)))


def test_process_without_masks_is_refused():
    teacher, problem = exact_views(b)
    step = step_of(drawn_from(problem, 4, 0), teacher, teacher)
    step = TrainingStep(step.x_0, Diffusion(Uniform(3)), step.student, step.peers)
    with pytest.raises(ValueError, match="has no mask token"):
        D2F(block_size=b)(step)
