"""`hf-ddistill exact`: the known table, its files, and one sentence for bad input."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
import torch
from PIL import Image

from hf_ddistill.cli import main
from hf_ddistill.laboratory import LimitSearch
from hf_ddistill.objectives import Frozen, Objective

KEYS = {"method", "problem", "process", "nfe", "tv", "kl", "reverse_kl", "entropy", "seed"}
TABLE = {
    "absorbing": [0.4465, 0.2216, 0.1121, 0.0568],
    "uniform": [0.4465, 0.2911, 0.1540, 0.0733],
}
TINY = ["--calls", "4", "--rows", "16", "--width", "16", "--start-steps", "3", "--draws", "64"]


def rows_of(tmp_path, *arguments):
    file = tmp_path / "rows.json"
    assert main(["exact", *map(str, arguments), "--json", str(file)]) == 0
    return json.loads(file.read_text())["rows"]


def refused(capsys, *arguments):
    """What a refused command says: exit code 2 and one sentence, the last on stderr."""
    try:
        code = main(["exact", *map(str, arguments)])
    except SystemExit as stop:
        code = stop.code
    error = capsys.readouterr().err.strip()
    assert code == 2 and "Traceback" not in error, error
    return error.splitlines()[-1]


@pytest.mark.parametrize("process", TABLE)
def test_the_command_prints_the_known_table(process, tmp_path, capsys):
    rows = rows_of(tmp_path, "--process", process, "--nfe", *(2**i for i in range(4)))
    assert [row["tv"] for row in rows] == pytest.approx(TABLE[process], abs=5e-5)
    assert all(KEYS <= set(row) and row["method"] == "teacher" for row in rows)
    shown = capsys.readouterr().out
    assert "entropy 3.4612 nats, total correlation 0.6187" in shown
    assert all(f"{tv:.4f}" in shown for tv in TABLE[process])


def test_a_number_of_calls_too_few_for_one_sampler_ends_the_whole_command(tmp_path, capsys):
    problem = ["--problem", "parity:3"]
    rows = rows_of(tmp_path, *problem, "--nfe", 1, 4, "--sampler", "speculative", "ancestral")
    assert [(row["sampler"], row["nfe"]) for row in rows] == [
        ("speculative", 4),
        ("ancestral", 1),
        ("ancestral", 4),
    ]
    assert "left out: a step of speculative takes 2 network calls" in capsys.readouterr().out
    said = refused(capsys, *problem, "--nfe", 1, "--sampler", "speculative")
    assert "--nfe 1 is too few: a step of speculative takes 2 network calls" in said


def test_a_run_has_teacher_limit_start_and_every_objective(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("hf_ddistill.cli.kept_limits.HF_HOME", str(tmp_path / "home"))
    search = LimitSearch(scales=(1.0,), adam_steps=20, lbfgs_steps=0)
    monkeypatch.setattr("hf_ddistill.cli.kept_limits.search_for", lambda _: search)
    plot = tmp_path / "plots" / "board.png"
    objective = '{"type": "law_matching", "gradient": "policy", "horizon": "rollout"}'
    options = ["--problem", "parity:3", "--nfe", 2, 1, "--seeds", 0, 1, "--limit", "--plot", plot]
    rows = rows_of(tmp_path, *options, "--objective", "ecd", objective, *TINY)
    assert [row["method"] for row in rows] == (
        ["teacher"] * 2 + ["limit"] * 2 + ["start"] * 2 + ["ecd"] * 4 + ["law_matching"] * 4
    )
    assert all(KEYS <= set(row) and row["problem"] == "parity:3" for row in rows)
    assert [row["seed"] for row in rows[6:]] == [0, 0, 1, 1] * 2
    assert [row["nfe"] for row in rows] == [1, 2] * 7
    assert {row["student_calls"] for row in rows[6:]} == {4}
    with Image.open(plot) as image:
        assert image.width > 500
    assert list((tmp_path / "home" / "hf_ddistill" / "limits").glob("*.safetensors"))
    assert "optimisation found, not a proof" in capsys.readouterr().out


@pytest.mark.parametrize("process", ["uniform", "ordinal", "hybrid", '{"type": "absorbing"}'])
def test_a_process_gets_as_many_tokens_as_it_needs(process, tmp_path):
    (row,) = rows_of(tmp_path, "--problem", "levels", "--process", process, "--nfe", 1)
    assert row["process"] in process and 0.3 < row["tv"] < 0.6


def test_one_student_for_all_calls(tmp_path):
    rows = rows_of(tmp_path, "--nfe", 1, 2, "--objective", "law_matching", "--one-student", *TINY)
    assert [row["one_student"] for row in rows[4:]] == [True, True]
    assert rows[4]["seconds"] == rows[5]["seconds"]


def test_a_law_from_a_file(tmp_path, capsys):
    file = tmp_path / "coins.json"
    pairs = torch.cartesian_prod(torch.arange(2), torch.arange(2)).tolist()
    file.write_text(json.dumps({"sequences": pairs, "law": [0.4, 0.1, 0.1, 0.4]}))
    (row,) = rows_of(tmp_path, "--problem", file, "--nfe", 1)
    assert row["problem"] == "coins" and row["tv"] == pytest.approx(0.3)
    file.write_text(json.dumps({"sequences": pairs, "law": [0.5, 0.0, 0.0, 0.5]}))
    assert "2 of 4" in refused(capsys, "--problem", file)
    file.write_text(json.dumps({"sequences": pairs}))
    assert "must hold 'sequences'" in refused(capsys, "--problem", file)
    assert "no file" in refused(capsys, "--problem", tmp_path / "nothing.json")


WRONG = {
    "too large": (["--problem", "parity:12"], ["531,441", "vocab_size=3 up to length=9", "20,000"]),
    "problem": (["--problem", "digit"], ["did you mean 'digits'", "trigrams"]),
    "length": (["--problem", "digits:3"], ["only parity takes a length"]),
    "process": (["--process", "masked"], ["absorbing", "uniform"]),
    "matrices": (["--process", "general"], ["needs its matrices"]),
    "objective": (["--objective", "laws_matching"], ["did you mean 'law_matching'"]),
    "setting": (["--objective", '{"type": "ecd", "gradient": 1}'], ["no setting 'gradient'"]),
    "json": (["--objective", "{ecd"], ["is no JSON"]),
    "nfe": (["--nfe", "0"], ["at least 1, got 0"]),
    "budget": (["--calls", "10", "--minutes", "1"], ["either a number of calls or minutes"]),
    "plot": (["--plot", "board.jpg"], [".png"]),
    "rate": (["--learning-rate", "-1"], ["--learning-rate: must be above 0"]),
}


BLOCKS = ["--problem", "parity", "--nfe", "3", "--block-size", "2"]
#: What a trainer says of such settings before its first step.
IDLE = {
    "one call of an objective of several": (["--objective", "lsd", "--nfe", "1", "4"], "one call"),
    "a teacher of no more calls": (
        ["--objective", '{"type": "lsd", "teacher_steps": 2}', "--nfe", "4"],
        "teacher_steps=2 are no more than its 4 calls",
    ),
    "steps of no size that is told": (
        ["--objective", "fs_dfm", "--process", "uniform", "--nfe", "8", "--noise-dim", "2"],
        "with noise_dim=2, and a step of 8 calls is shorter",
    ),
    "another process": (["--objective", "dcd"], "'dcd' is of uniform noise"),
    "blocks without their size": (["--objective", "bd3lm"], "give --block-size"),
    "rows in blocks": ([*BLOCKS, "--objective", "nelbo"], "trains all positions of a row at once"),
    "a reward": ([*BLOCKS, "--objective", "outcome_reward"], "needs the reward of each row"),
}


@pytest.mark.parametrize(("arguments", "says"), IDLE.values(), ids=IDLE.keys())
def test_what_a_training_cannot_act_on_is_said_after_the_teachers_rows(arguments, says, capsys):
    assert main(["exact", *TINY, *arguments]) == 2
    told = capsys.readouterr()
    assert not told.out and says in told.err and told.err.count("\n") == 1, told


@pytest.mark.parametrize(("arguments", "words"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_argument_is_one_sentence(arguments, words, capsys):
    said = refused(capsys, *arguments)
    assert said.startswith("hf-ddistill") and all(word in said for word in words), said


def test_an_objective_without_its_network_is_refused_before_any_training(capsys, monkeypatch):
    @dataclass(frozen=True)
    class _Referred(Objective):
        networks = {"reference": Frozen()}

        def __call__(self, step):
            raise AssertionError("it was called")

    monkeypatch.setitem(Objective.registry, "referred", _Referred)
    said = refused(capsys, "--objective", "referred")
    assert "needs the network 'reference'; the laboratory has teacher" in said
