"""What `hf-ddistill list` says was measured is in the rows of the results."""

from __future__ import annotations

import json
import re
import statistics
from collections import defaultdict
from pathlib import Path

import pytest

from hf_ddistill.objectives import Objective

RESULTS = Path(__file__).parents[2] / "examples/results"
#: Under what other names a method has rows: settings of it.
ALSO = {"distribution_matching": ("d_mmd_grid",), "law_matching": ("law_matching_bridge",)}
OURS = {name: kind for name, kind in Objective.registry.items() if "hf_ddistill" in kind.__module__}
MEASURED = {name: kind.measured for name, kind in OURS.items() if kind.measured}


def total_variations():
    """By method, process and calls: TV of each row of exact digits, and the median of each file."""
    found = defaultdict(set)
    for file in RESULTS.glob("*exact*.json"):
        rows, of_file = json.loads(file.read_text()), defaultdict(list)
        for row in rows["rows"] if isinstance(rows, dict) and "rows" in rows else []:
            if row.get("problem") == "digits" and "tv" in row:
                of_file[row["method"], row["process"], row["nfe"]].append(row["tv"])
        for key, values in of_file.items():
            found[key] |= {round(value, 4) for value in (*values, statistics.median(values))}
    return found


def test_every_method_of_the_exact_results_says_what_was_measured():
    methods = {method for method, _, _ in total_variations()}
    assert methods & set(OURS) <= set(MEASURED)


@pytest.mark.parametrize("name", MEASURED)
def test_measured_figures_are_in_the_rows(name):
    rows, said = total_variations(), MEASURED[name]
    process = "uniform" if "uniform" in said else "absorbing"
    figures = [float(each) for each in re.findall(r"\.\d{4}", said)]
    (calls,) = re.findall(r"at ([\d /]+) calls", said)
    calls = [int(each) for each in calls.split(" / ")]
    assert len(figures) == len(calls) > 1
    for figure, nfe in zip(figures, calls, strict=True):
        assert any(figure in rows[each, process, nfe] for each in (name, *ALSO.get(name, ())))
