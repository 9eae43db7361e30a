"""The block laboratory: what its network sees, its teacher, its students and their rows."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from hf_ddistill.cli import main
from hf_ddistill.laboratory.blocks import students
from hf_ddistill.laboratory.blocks.network import BlockNetwork
from hf_ddistill.laboratory.blocks.scoreboard import BlockBench
from hf_ddistill.laboratory.blocks.students import BlockProblem
from hf_ddistill.laboratory.problems import digits, parity
from hf_ddistill.laboratory.students import BenchSettings
from hf_ddistill.objectives import BD3LM, ECD, OPDLM, CausalLawMatching

MASK = 2
TINY = BenchSettings(calls=4, rows=16, width=16, start_steps=3)
FLAGS = ["--calls", "4", "--rows", "16", "--width", "16", "--start-steps", "3"]


def bench(block_size, settings=TINY, law=None):
    law = parity(4) if law is None else law
    return BlockBench(
        "parity:4", BlockProblem(law.law, 2, law.sequences.shape[1], block_size), settings
    )


def test_a_position_sees_what_is_behind_it():
    network = BlockNetwork(3, 6, 2, width=8)
    x = torch.tensor([[0, 1, MASK, 1, MASK, MASK]])
    t, at = torch.ones(1), torch.tensor([2])
    said = network(x, t, at=at)
    later, own, before = x.clone(), x.clone(), x.clone()
    later[0, 4:], own[0, 3], before[0, 0] = 1, MASK, 1
    assert torch.equal(network(later, t, at=at), said)
    assert not torch.equal(network(own, t, at=at), said)
    assert not torch.equal(network(before, t, at=at), said)
    causal = network(x, t, at=at, causal=True)
    assert torch.equal(network(own, t, at=at, causal=True), causal)
    assert not torch.equal(network(before, t, at=at, causal=True), causal)
    whole = network(x, t)
    assert whole.shape == (1, 6, 3)
    torch.testing.assert_close(whole[0, at], said)  # products of other shapes round differently
    clean = torch.tensor([[1, 1, 0, 0, 0, 0]])
    assert torch.equal(
        network(x, t, at=at, clean_ids=clean),
        network(torch.cat([clean[:, :2], x[:, 2:]], 1), t, at=at),
    )
    assert torch.equal(network(x[:, :4], t, at=at), said)


def test_the_teacher_is_not_the_law_token_by_token():
    exact = bench(1)
    (row,) = exact.teacher_rows([4])
    assert row["tv"] < 1e-12 and row["block_size"] == 1 and row["problem"] == "parity:4"
    first, second = bench(2).teacher_rows([2, 4])
    assert first["tv"] == pytest.approx(0.5, abs=1e-3), "two bits at once miss the parity"
    assert second["tv"] < 1e-12


def test_a_teacher_of_blocks_answers_about_states_that_it_has_no_row_for():
    board = bench(2)
    x = torch.tensor([[0, MASK, 1, MASK]])
    with pytest.raises(ValueError, match="leave out --block-size"):
        board.problem.teacher().at(x, 1.0, torch.tensor([[False, False, False, True]]))
    with pytest.raises(ValueError, match="'ecd' trains all positions .* leave out --block-size"):
        next(board.student_rows(ECD(), board.fit_start(), [2], 0))


def test_rollouts_are_decoded_for_every_update(monkeypatch):
    decoded = []
    draw = students.draw_blocks
    monkeypatch.setattr(
        students, "draw_blocks", lambda *given: decoded.append(given) or draw(*given)
    )
    board = bench(2)
    board = replace(board, settings=replace(TINY, calls=10))
    (row,) = board.student_rows(OPDLM(rollouts={"updates": 3}), board.fit_start(), [2], 0)
    assert len(decoded) == -(-row["updates"] // 3) > 1


def test_settings_of_rollouts_are_ignored():
    for given in ({"tokens": 8}, {"unmasking": "factor"}, {"temperature": 0.5}):
        with pytest.raises(ValueError, match=f"rollouts.{next(iter(given))} would not be acted on"):
            students.check_rollouts(OPDLM(rollouts=given))
    accepted = {"updates": 2, "unmasking": {"type": "static", "score": "random"}}
    students.check_rollouts(OPDLM(rollouts=accepted))


def test_both_readings_of_the_teacher_are_of_one_law():
    teacher = bench(2).problem.teacher()
    x = torch.tensor([[0, 1, 1, MASK]])
    where = torch.tensor([[False, False, False, True]])
    block = teacher.at(x, 1.0, where).log_conditional[0, 0, :2].exp()
    causal = teacher.at(x, 1.0, where, causal=True).log_conditional[0, 0, :2].exp()
    assert torch.allclose(block, causal) and float(block[0]) > 0.99


@pytest.mark.parametrize("objective", [BD3LM(), OPDLM(), CausalLawMatching()], ids=lambda o: o.id)
def test_a_student_by_an_objective_of_blocks_has_no_exact_law(objective):
    board = bench(2)
    start = board.fit_start()
    (before,) = board.start_rows(start, [2])
    rows = list(board.student_rows(objective, start, [2, 4], 0))
    assert [row["nfe"] for row in rows] == [2, 4]
    for row in rows:
        assert row["method"] == objective.id and 0 < row["tv"] < 1
        assert row["student_calls"] >= 4 and row["updates"] > 0
    assert rows[0]["tv"] != before["tv"]
    again = list(board.student_rows(objective, start, [2], 0))
    assert again[0]["tv"] == rows[0]["tv"]


@pytest.mark.slow
def test_training_does_not_bring_a_student_nearer_to_the_law():
    settings = BenchSettings(calls=300, rows=128, width=64, start_steps=20)
    board = bench(2, settings, digits())
    start = board.fit_start()
    (before,) = board.start_rows(start, [6])
    (row,) = board.student_rows(BD3LM(), start, [6], 0)
    assert before["tv"] > 0.4 and row["tv"] < 0.25
    (row,) = board.student_rows(OPDLM(), start, [6], 0)
    assert row["tv"] < before["tv"] - 0.03


def test_calls_that_blocks_cannot_have_are_accepted():
    with pytest.raises(ValueError, match="2 blocks of 2 tokens take 2, 4 calls a sample"):
        bench(2).calls_of(3)
    with pytest.raises(ValueError, match="do not divide a length of 4"):
        bench(3)
    with pytest.raises(ValueError, match="the law of all sequences"):
        BlockProblem(torch.ones(3) / 3, 2, 2, 1)


def test_the_command_has_no_rows_of_blocks(tmp_path, capsys):
    file = tmp_path / "rows.json"
    argv = ["exact", "--problem", "parity:4", "--block-size", "2", "--objective", "opdlm"]
    assert main([*argv, *FLAGS, "--json", str(file)]) == 0
    rows = json.loads(file.read_text())["rows"]
    assert [(row["method"], row["nfe"]) for row in rows] == [
        (method, nfe) for method in ("teacher", "start", "opdlm") for nfe in (2, 4)
    ]
    keys = {"problem", "process", "tv", "kl", "reverse_kl", "entropy", "seed", "block_size"}
    assert all(keys <= row.keys() for row in rows)
    assert "16 sequences of 4 in blocks of 2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--objective", "opdlm"], "give --block-size"),
        (["--block-size", "2", "--limit"], "--limit: not with --block-size"),
        (["--block-size", "2", "--start-scale", "3"], "--start-scale: not with --block-size"),
        (["--block-size", "2", "--process", "uniform"], "--process: not with"),
        (["--block-size", "4"], "do not divide a length of 6"),
    ],
)
def test_what_blocks_have_no_use_for_is_accepted(given, words, capsys):
    assert main(["exact", *given]) == 2
    assert words in capsys.readouterr().err
