"""The scoreboards: rows are made once, budgets are kept, judges tell what differs."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from scoreboard_cost import calls_of
from scoreboard_exact import bench_of, print_tables, student_row
from scoreboard_shared import OBJECTIVES, RowsFile, short
from two_sample_network import network_auc

from hf_ddistill import Objective

pytestmark = pytest.mark.usefixtures("registries_of_their_own")


def test_rows_are_kept_after_each_of_them_and_found_again(tmp_path):
    file = tmp_path / "rows.json"
    kept = RowsFile(file, ("method", "nfe"))
    kept.add({"method": "ecd", "nfe": 1, "tv": 0.5})
    kept.add({"method": "ecd", "nfe": 2, "tv": 0.4})
    again = RowsFile(file, ("method", "nfe"))
    assert again.has(method="ecd", nfe=2) and not again.has(method="ecd", nfe=4)
    again.add({"method": "ecd", "nfe": 2, "tv": 0.3})
    assert [row["tv"] for row in json.loads(file.read_text())["rows"]] == [0.5, 0.3]
    assert not list(tmp_path.glob("*.part"))


def test_every_entry_is_an_objective():
    for entry in OBJECTIVES.values():
        Objective.from_config(entry.settings)


def test_calls_of_a_step_are_those_that_the_objective_says():
    assert calls_of(OBJECTIVES["ecd"], 1, 4) == {"with gradients": 1.0, "without": 1.0}
    assert calls_of(OBJECTIVES["imdm"], 1, 4) == {"with gradients": 1.0, "without": 8.0}
    assert calls_of(OBJECTIVES["alpha"], 1, 4) == {"with gradients": 1.0}


@pytest.mark.parametrize("name", ["law_matching_call", "imdm", "lsd"])
def test_a_student_of_known_laws_gets_as_many_calls_as_all_others(name, capsys):
    bench = bench_of("parity")
    bench = replace(bench, draws=64, settings=replace(bench.settings, start_steps=2))
    row = student_row(bench, name, 2, 0, 40, bench.fit_start())
    assert 40 <= row["network_calls"] <= 40 + 70  # to the end of the step that passes it
    assert 0 < row["tv"] < 1 and row["method"] == name
    print_tables([row])
    assert f"| {name} | 40 | {short(row['tv'], 4)} |" in capsys.readouterr().out


def test_a_network_tells_stripes_from_noise_and_not_noise_from_noise():
    generator = torch.Generator().manual_seed(0)
    noise, other = torch.randint(2, (2, 160, 64), generator=generator)
    stripes = noise.unflatten(1, (8, 8))[:, :1].expand(-1, 8, -1).flatten(1)
    assert network_auc(stripes, other) > 0.9
    assert abs(network_auc(noise, other) - 0.5) < 0.1
