"""CDLM, d3LLM and T3D on a law that is known: what they ask of whom at which state."""

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

from hf_ddistill.couplings import Trajectory
from hf_ddistill.objectives import CDLM, T3D, PseudoTrajectory
from hf_ddistill.objectives.blocks.states import decoded
from hf_ddistill.unmasking import Static

b, L = 3, 6


# ---------------------------------------------------------------------------- cdlm


def cdlm(distil, consistency, masked_lm):
    return CDLM(distil=distil, consistency=consistency, masked_lm=masked_lm)


def test_cdlm_rests_at_the_exact_student():
    """Each of its terms does: later predictions have the earlier one for their mean."""
    teacher, problem = exact_views(b)
    student = Views(teacher.logits.data, b)
    for weights in ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)):
        objective = cdlm(*weights)
        steps = steps_of(problem, student, teacher, decoded=True)
        found = deviations(objective, student, steps)
        assert found < 4.5, (weights, found)
        wrong = random_views(L, b)
        steps = steps_of(problem, wrong, teacher, count=10, decoded=True)
        assert deviations(objective, wrong, steps) > 10


def test_consistency_alone_is_content_with_a_student_that_looks_at_nothing():
    """Why the paper's ablation collapses."""
    teacher, problem = exact_views(b)
    blind = Views(torch.randn(1, L, 3).double().expand(3**L, L, 3), b)
    (step,) = steps_of(problem, blind, teacher, count=1, decoded=True)
    assert cdlm(0.0, 1.0, 0.0)(step)["student"].abs() < 1e-12
    (step,) = steps_of(problem, blind, teacher, count=1, decoded=True)
    assert cdlm(1.0, 0.0, 0.0)(step)["student"] > 0.1


def test_cdlm_asks_the_teacher_at_the_call_that_decided_a_token():
    teacher, problem = exact_views(L)  # of full attention
    student = Views(teacher.logits.data, b)
    (step,) = steps_of(problem, student, teacher, count=1, decoded=True)
    CDLM()(step)
    state, y = teacher.calls[0], student.calls[0]
    rounds, at = step.trajectory.rounds, state["at"]
    assert (at.sum(1) == 1).all(), "one token a call here"
    now = rounds[at][:, None]
    active = at.unflatten(1, (2, b)).any(-1).repeat_interleave(b, 1)
    assert ((state["x"] == 2) == (rounds >= now))[active].all()
    more = (y["x"] == 2) | (state["x"] != 2)
    assert more.all(), "y is not behind the state that the teacher is asked at"
    assert state["block_size"] == L and y["block_size"] == b and y["clean"] is None


def test_decoding_as_one_block_is_read_in_the_student_s_blocks():
    rounds = torch.tensor([[3, -1, 0, 2, 1, 4], [-1, 7, 7, 0, 9, 8]])
    x_0 = torch.zeros_like(rounds)
    network = random_views(L, b)
    step = step_of(x_0, network, network, trajectory=Trajectory(rounds, L))
    found = decoded(step, "cdlm", b)
    assert found.rounds.tolist() == [[1, -1, 0, 1, 0, 2], [-1, 0, 1, 0, 2, 1]]
    assert found.block_size == b and decoded(step, "cdlm") is step.trajectory
    halves = step_of(x_0, network, network, trajectory=Trajectory(rounds.clamp_max(2), b))
    whole = decoded(halves, "cdlm", L).rounds
    assert whole.tolist() == [[1, -1, 0, 3, 2, 4], [-1, 0, 1, 2, 3, 4]]


# ---------------------------------------------------------------------------- pseudo trajectory


@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
def test_states_of_a_window_are_those_of_the_teacher_s_decoding(progress):
    teacher, problem = exact_views(b)
    x_0 = drawn_from(problem, 300, 0)
    trajectory = random_order(x_0.shape, b, 0)
    step = step_of(x_0, teacher, teacher, trajectory=trajectory, progress=progress)
    PseudoTrajectory(noise=(0.0, 1.0), window=(b, b))(step)
    (call,) = teacher.calls
    count = max(1, -(-b * progress // 1))
    assert (call["at"].sum(1) == count).all()
    active = call["at"].unflatten(1, (2, b)).any(-1).repeat_interleave(b, 1)
    assert (call["at"] == (active & (trajectory.rounds >= b - count))).all()
    behind = active.long().flip(1).cumsum(1).flip(1) == 0
    expected = call["at"] | (behind & ~active)
    assert ((call["x"] == 2) == expected).all()


def test_windows_grow_count_from_the_prompt_and_skip_what_was_given():
    teacher, problem = exact_views(L)
    x_0 = drawn_from(problem, 300, 0)
    trajectory = random_order(x_0.shape, L, 0, given=1)
    sizes = {}
    for progress in (0.0, 1.0):
        step = step_of(x_0, teacher, teacher, trajectory=trajectory, progress=progress)
        PseudoTrajectory(noise=(1.0, 1.0), window=(2, 4))(step)
        asked = teacher.calls[-1]["at"]
        assert not asked[:, 0].any()
        sizes[progress] = set(asked.sum(1).tolist())
    assert sizes == {0.0: {2, 1}, 1.0: {4, 1}}


# ---------------------------------------------------------------------------- t3d


def masked_means(student, x_t, y, where):
    log_p = student.denoiser()(x_t, 1.0, clean_ids=y[0]).log_conditional
    each = log_p.gather(-1, y[1][..., None])[..., 0] * where
    return each.sum(1) / where.sum(1)


def test_gradient_of_t3d_at_the_reference_raises_real_and_lowers_few_step_tokens():
    teacher, problem = exact_views(b)
    student = Views(teacher.logits.data, b)
    x_0 = drawn_from(problem, 200, 0)
    step = step_of(x_0, student, teacher, trajectory=random_order(x_0.shape, b, 0))
    loss = T3D(path=0.0, masks={"ratios": (0.67,)})(step)["student"]
    (grad,) = torch.autograd.grad(loss, student.logits)
    call = teacher.calls[0]
    log_ref = teacher.denoiser()(call["x"], 1.0, clean_ids=x_0).log_conditional
    fake = torch.where(call["at"], log_ref.argmax(-1), x_0)
    assert 0.1 < (fake != x_0)[call["at"]].double().mean() < 0.9
    real, few = (masked_means(student, call["x"], (x_0, y), call["at"]) for y in (x_0, fake))
    expected = (-0.1 / 2 * real + 0.5 * 0.1 / 2 * few).mean()
    (expected,) = torch.autograd.grad(expected, student.logits)
    assert torch.allclose(grad, expected, atol=1e-12) and expected.abs().max() > 1e-5


def test_t3d_parts_the_two_kinds_of_tokens():
    """Real: one token a call, the likeliest; few-step: all at once. The prefixes differ."""
    teacher = random_views(L, b)
    teacher.logits.data *= 3
    student = Views(teacher.logits.data, b)
    x_0, trajectory, _ = decode(teacher, Static(), 200, L, seed=1)
    x_0[:, b:] = decode(teacher, Static(), 200, L, greedy=True, start=x_0[:, :b])[0][:, b:]
    trajectory = Trajectory(trajectory.rounds.index_fill(1, torch.arange(b), -1), b)
    optimizer = torch.optim.Adam([student.logits], lr=0.05)
    for seed in range(30):
        step = step_of(x_0, student, teacher, seed, trajectory=trajectory)
        optimizer.zero_grad()
        T3D(beta=1.0, path=0.0)(step)["student"].backward()
        optimizer.step()
    masks = x_0.masked_fill(trajectory.drawn, 2)
    before, after = (n.denoiser()(masks, 1.0).log_conditional for n in (teacher, student))
    fake = before.argmax(-1)
    differ = trajectory.drawn & (fake != x_0)
    assert 0.1 < differ[:, b:].double().mean() < 0.9
    gained = [(after - before).gather(-1, y[..., None])[..., 0][differ] for y in (x_0, fake)]
    assert gained[0].mean() > 0.3 and gained[1].mean() < -0.3, [g.mean() for g in gained]


@pytest.mark.parametrize("order", ["first", "last", "random"])
def test_t3d_masks_a_share_of_each_block_in_its_order(order):
    teacher, problem = exact_views(b)
    x_0 = drawn_from(problem, 100, 0)
    trajectory = random_order(x_0.shape, b, 0)
    T3D(masks={"order": order, "ratios": (0.67,)})(
        step_of(x_0, teacher, teacher, trajectory=trajectory)
    )
    at = teacher.calls[0]["at"]
    assert (at.unflatten(1, (2, b)).sum(-1) == 2).all()
    decided = {"first": trajectory.rounds < 2, "last": trajectory.rounds >= 1}
    assert (at == decided[order]).all() if order in decided else (at != decided["last"]).any()


def test_path_of_t3d_counts_early_tokens_at_every_later_step():
    teacher, problem = exact_views(b)
    x_0 = drawn_from(problem, 50, 0)
    trajectory = random_order(x_0.shape, b, 0)
    losses = [
        T3D(path=path, masks={"ratios": (1.0,)}, tokens_a_step=1)(
            step_of(x_0, teacher, teacher, trajectory=trajectory)
        )["student"]
        for path in (1.0, 0.0)
    ]
    masks = torch.full_like(x_0, 2)
    log_p = teacher.denoiser()(masks, 1.0, clean_ids=x_0).log_conditional
    each = -log_p.gather(-1, x_0[..., None])[..., 0]
    steps = [each[trajectory.rounds <= r].mean() for r in range(b)]
    assert torch.isclose(losses[0] - losses[1], sum(steps) / b)
