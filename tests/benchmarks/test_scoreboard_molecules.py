"""The scoreboard of molecules: its table, its counts, and the script from end to end."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "examples" / "benchmarks" / "scoreboard_molecules.py"


@pytest.fixture
def table():
    return importlib.import_module("scoreboard_molecules_table")


def row(**more):
    figures = dict.fromkeys(("unique", "novel"), 1.0)
    about = {"model": "teacher", "nfe": 2, "sampler": "ancestral", "temperature": 1.0, "seed": 0}
    return {**about, **figures, "valid": 0.4, "fcd": 10.0, "diversity": 0.9, **more}


def test_a_student_stands_beside_the_teacher_at_its_own_diversity(table):
    cold = row(temperature=0.5, valid=0.8, fcd=14.0, diversity=0.8)
    match = table.at_diversity([row(), cold], 0.85)
    assert match == {
        "valid": pytest.approx(0.6),
        "fcd": pytest.approx(12),
        "temperature": pytest.approx(0.75),
    }
    assert table.at_diversity([row(), cold], 0.95) is None
    student = row(model="ecd", sampler="its own", diversity=0.85)
    last = table.table([row(), cold, student]).splitlines()[-1]
    assert last.endswith("| .600 | 12.00 |")


def test_a_student_stands_beside_the_teacher_by_its_own_sampler(table):
    """By even shares beside even shares; where the teacher has no such rows, beside none."""
    even = [row(sampler="random", temperature=1 - d, valid=d, diversity=d) for d in (0.8, 0.9)]
    student = row(model="ecd", sampler="random", diversity=0.85, passes=60_400)
    more = {**student, "nfe": 4}
    last = table.table([row(), *even, student, more]).splitlines()[-1]
    assert last.startswith("| ecd | 60 | random | 1 | 1 | 2 / 4 | .400 / .400 |")
    assert last.endswith("| .850 / — | 10.00 / — |")


def test_seeds_are_one_line_and_a_figure_that_one_of_them_lacks_is_none(table):
    rows = [row(), row(seed=1, valid=0.6, fcd=None)]
    assert [(r["seeds"], r["valid"], r["fcd"]) for r in table.mean_rows(rows)] == [(2, 0.5, None)]
    assert "| .500 (± .100) |" in table.table(rows)


def test_passes_are_rows_through_a_network_however_it_is_called():
    students = importlib.import_module("scoreboard_molecules_students")

    class Net(torch.nn.Linear):
        def forward(self, input_ids, t=None):
            return super().forward(input_ids)

    net, rows = Net(2, 2), torch.zeros(3, 2)
    with students.Passes(Net) as passes:
        net(rows), net(input_ids=rows, t=None), torch.nn.Linear(2, 2)(rows)
    net(rows)
    assert passes.rows == 6


@pytest.mark.slow
def test_the_scoreboard_runs_without_any_file(tmp_path):
    """A minute of one core: the teacher, two students and their figures on the example's strings;
    the second time nothing is made again."""
    pytest.importorskip("rdkit")
    pytest.importorskip("fcd")
    command = [sys.executable, str(SCRIPT), "--fast", "--output", str(tmp_path), "--students"]
    command += ["ecd", "imdm"]
    first, second = (
        subprocess.run(command, capture_output=True, text=True, timeout=550) for _ in range(2)
    )
    assert first.returncode == second.returncode == 0, first.stderr[-2000:] + second.stderr[-2000:]
    assert "train_loss" in first.stdout and "train_loss" not in second.stdout
    assert first.stdout.splitlines()[-5:] == second.stdout.splitlines()[-5:]
