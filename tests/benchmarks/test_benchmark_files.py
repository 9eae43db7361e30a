"""Files that a benchmark would find missing, or write over, when all its work is done."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest
from benchmark_files import given_file, rows_file

BENCHMARKS = Path(__file__).parents[2] / "examples" / "benchmarks"


def refused(kind, given):
    with pytest.raises(argparse.ArgumentTypeError) as refusal:
        kind(str(given))
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def test_rows_have_no_place_when_they_are_there(tmp_path):
    assert "is a folder; give a file" in refused(rows_file, tmp_path)
    assert "there is no folder" in refused(rows_file, tmp_path / "nowhere" / "rows.json")
    assert rows_file(str(tmp_path / "rows.json")) == tmp_path / "rows.json"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("held", ["my notes", "[1, 2]", ""])
def test_rows_take_the_place_of_another_s_file(tmp_path, held):
    file = tmp_path / "notes.txt"
    file.write_text(held)
    assert "holds no rows of a benchmark; give another name" in refused(rows_file, file)
    assert file.read_text() == held


def test_rows_of_before_are_refused(tmp_path):
    (tmp_path / "rows.json").write_text('{"rows": []}')
    assert rows_file(str(tmp_path / "rows.json")).is_file()


def test_a_missing_text_is_missed_by_a_traceback(tmp_path):
    assert "there is no such file" in refused(given_file, tmp_path / "text.txt")
    assert "there is no such file" in refused(given_file, tmp_path)


@pytest.mark.parametrize("script", sorted(BENCHMARKS.glob("*.py")), ids=lambda path: path.stem)
def test_a_benchmark_takes_any_path_for_its_rows_or_text(script):
    for name, kind in re.findall(r'"(--json|--text)",\s*type=(\w+)', script.read_text()):
        assert kind == {"--json": "rows_file", "--text": "given_file"}[name]
