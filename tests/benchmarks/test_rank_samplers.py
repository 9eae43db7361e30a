"""The ranking of samplers where truth is known: a few of them, by the command itself."""

from __future__ import annotations

import json
import sys

import pytest
import rank_samplers

pytestmark = pytest.mark.usefixtures("registries_of_their_own")
SAMPLERS = ["ancestral", "theta_trapezoidal", "random"]


@pytest.mark.slow
def test_the_command_ranks_nothing_or_makes_its_rows_again(monkeypatch, tmp_path, capsys):
    file = tmp_path / "rows.json"
    command = ["", "--problem", "standard", "--json", str(file), "--calls", "1", "2", "4"]
    monkeypatch.setattr(sys, "argv", [*command, "--samplers", *SAMPLERS])
    rank_samplers.main()
    rows = json.loads(file.read_text())["rows"]
    tv = {(row["process"], row["sampler"], row["calls"]): row["tv"] for row in rows}
    assert set(tv) == {
        (process, name, calls)
        for process in ("absorbing", "uniform")
        for name in SAMPLERS
        for calls in (1, 2, 4)
        if (name, calls) != ("theta_trapezoidal", 1) and (process, name) != ("uniform", "random")
    }
    assert all(row["exact"] and row["made"] <= row["calls"] for row in rows)
    (one,) = (row for row in rows if row["sampler"] == "random" and row["calls"] == 1)
    assert one["kl"] == pytest.approx(0.6187170, abs=1e-6)  # drawn together: total correlation
    four = [tv["absorbing", name, 4] for name in ("ancestral", "theta_trapezoidal", "random")]
    assert four == sorted(four, reverse=True)
    assert tv["uniform", "ancestral", 4] < tv["uniform", "ancestral", 2]
    capsys.readouterr()
    rank_samplers.main()
    assert "tv=" not in capsys.readouterr().out
    assert json.loads(file.read_text())["rows"] == rows
