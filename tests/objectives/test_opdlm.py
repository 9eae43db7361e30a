"""OPDLM: what it asks of a student, and of whom."""

from __future__ import annotations

import pytest
import torch
from block_runs import distilling
from causal_laws import MASKS, L, causal, law

from hf_ddistill.couplings import TrainingStep, Trajectory
from hf_ddistill.laboratory import all_sequences
from hf_ddistill.laboratory.blocks.block_law import BlockDecoder, draw_blocks
from hf_ddistill.laboratory.blocks.tables import block_table
from hf_ddistill.objectives import OPDLM
from hf_ddistill.unmasking import Static


def step_of(block_size, rows=512, seed=0, student=None):
    """The teacher's own law as the student, and its rollouts."""
    table = block_table(law(1), block_size, MASKS) if student is None else student
    decoder = BlockDecoder(table.denoiser(), L, block_size, Static("random"), block_size)
    generator = torch.Generator().manual_seed(seed)
    x_0, rounds = draw_blocks(decoder, rows, generator)
    peers = {"teacher": causal(law(1))}
    path = Trajectory(rounds, block_size)
    step = TrainingStep(x_0, MASKS, table.denoiser(), peers, generator=generator, trajectory=path)
    return step, table


def gradient(objective, step, table):
    grads = torch.autograd.grad(objective(step)["student"], list(table.parameters()))
    return float(torch.cat([g.flatten() for g in grads]).abs().max())


def test_with_blocks_of_one_token_the_causal_model_itself_is_the_optimum():
    step, table = step_of(1)
    assert float(OPDLM()(step)["student"].detach()) == pytest.approx(0, abs=1e-9)
    assert gradient(OPDLM(), step, table) < 1e-9


def test_the_posterior_target_leaves_the_exact_student_where_it_is_and_the_prefix_does_not():
    """In the mean over rollouts; the exact student's own are the teacher's sequences."""
    step, table = step_of(4, rows=20_000)
    mended = gradient(OPDLM(target={"candidates": 2}), step, table)
    step, table = step_of(4, rows=20_000)
    assert gradient(OPDLM(), step, table) > 4 * mended


@pytest.mark.parametrize("states", ["trajectory", "trajectory_in_step"])
def test_states_are_those_that_the_decoding_passed_through(states):
    step, _ = step_of(2)
    where = OPDLM(states=states).masks(step)
    rounds = step.trajectory.rounds
    for row in range(20):
        for block in range(2):
            part = slice(2 * block, 2 * block + 2)
            kept = rounds[row, part][~where[row, part]]
            hidden = rounds[row, part][where[row, part]]
            assert len(hidden) and (kept[:, None] < hidden[None]).all()


def test_random_states_do_not_look_at_the_order():
    """With one token a call, left to right, a random state may hide what was decided first."""
    x_0 = all_sequences(torch.arange(2), L)
    rounds = torch.arange(L).expand(len(x_0), -1).contiguous()
    step, _ = step_of(4)
    step = TrainingStep(
        **{**vars(step), "x_0": x_0, "trajectory": Trajectory(rounds, 4), "generator": None}
    )
    torch.manual_seed(0)
    on_path = OPDLM().masks(step)
    off_path = OPDLM(states="random").masks(step)
    # On the path the hidden tokens are a run at the end of the block.
    assert (on_path.long().diff(dim=1) >= 0).all()
    assert (off_path.long().diff(dim=1) < 0).any()


def test_each_sequence_counts_alike_however_many_masks_it_has():
    step, table = step_of(4, rows=2)
    rounds = torch.tensor([[0, 1, 2, 3], [0, -1, -1, -1]])
    step = TrainingStep(**{**vars(step), "trajectory": Trajectory(rounds, 4)})
    objective = OPDLM()
    losses = []
    for row in range(2):
        alone = step.rows(torch.tensor([row]))
        path = Trajectory(rounds[row : row + 1], 4)
        generator = torch.Generator().manual_seed(0)
        alone = TrainingStep(**{**vars(alone), "trajectory": path, "generator": generator})
        losses.append(float(_at(objective, alone, path.at(torch.zeros_like(path.calls)))))
    both = step.trajectory.at(torch.zeros_like(step.trajectory.calls))
    assert float(_at(objective, step, both)) == pytest.approx(sum(losses) / 2)


def _at(objective, step, where):
    """The loss with masks at `where`."""
    x_t = step.x_0.masked_fill(where, 2)
    t = torch.ones(len(x_t)).double()
    local = step.look(step.student, x_t, t, where, clean_ids=step.x_0)
    log_q = local.prediction.log_conditional
    tokens = local.per_token(objective.distance(objective.target_at(step, where, log_q), log_q))
    return (tokens.sum(1) / where.sum(1)).mean().detach()


def test_the_sparse_divergence_is_not_normalised_over_the_kept_tokens():
    log_p = torch.tensor([[[0.6, 0.3, 0.1]]]).log()
    log_q = torch.tensor([[[0.2, 0.3, 0.5]]]).log()
    expected = 0.6 * (log_p[0, 0, 0] - log_q[0, 0, 0])
    assert float(OPDLM(top_k=1).distance(log_p, log_q)) == pytest.approx(float(expected))


@pytest.mark.slow
def test_posterior_targets_train_a_transformer(tmp_path):
    objective = {"type": "opdlm", "target": {"candidates": 2, "completions": 2}}
    trainer = distilling(tmp_path, objective=objective, max_steps=2)
    trainer.train()
    assert trainer.state.global_step == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"states": "rollout"},
            "Unknown states 'rollout'; there are: trajectory, ",
        ),
        ({"target": "postrior"}, "Unknown target 'postrior'"),
        ({"top_k": 0}, "top_k must be at least 1"),
        ({"teacher_temperature": 0.0}, "teacher_temperature must be above 0"),
        ({"divergence": "forward"}, "Unknown divergence 'forward'"),
    ],
)
def test_wrong_settings_are_told(settings, message):
    with pytest.raises(ValueError, match=message):
        OPDLM(**settings)


def test_some_rows_of_a_step_keep_their_own_trajectory():
    step, _ = step_of(2, rows=8)
    chosen = torch.tensor([5, 0])
    part = step.rows(chosen)
    assert torch.equal(part.trajectory.rounds, step.trajectory.rounds[chosen])
    assert OPDLM()(part)["student"].isfinite()
