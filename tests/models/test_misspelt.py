"""A misspelt name is answered at once, also where the Hub cannot be reached: the libraries ask it
six times, and wait for half a minute in all."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

COMMANDS = [
    *([command, "student"] for command in ("card", "sample", "evaluate", "diagnose")),
    *([command, "a/b"] for command in ("card", "sample", "evaluate", "diagnose")),
    ["sample", "./x"],
    ["convert", "lm", "--output", "out"],
    ["teacher", "--data", "a/b", "--output", "out"],
    ["teacher", "--data", "rows", "--output", "out"],
    ["teacher", "--data", "a/b/c", "--output", "out"],
    ["teacher", "--data", "text.txt", "--tokenizer", "bert", "--output", "out"],
    ["distill", "--teacher", "student", "--data", "digits", "--output", "out"],
]
RUN = """
import json, sys, time
from hf_ddistill.cli import main
slept = []
time.sleep = slept.append  # what the libraries wait between two tries; no clock is looked at
for argv in json.loads(sys.argv[1]):
    slept.clear()
    code = main(argv)
    print(json.dumps([argv, code, sum(slept)]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("reachable", [True, False])
def test_a_misspelt_name_is_told_at_once(local_hub, tmp_path, reachable):
    env = local_hub.env | {"OMP_NUM_THREADS": "1"}
    if not reachable:
        env["HF_ENDPOINT"] = "http://127.0.0.1:9"  # nobody listens there
    (tmp_path / "text.txt").write_text("text\n")
    done = subprocess.run(
        [sys.executable, "-c", RUN, json.dumps(COMMANDS)],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row[:2] for row in rows] == [[argv, 2] for argv in COMMANDS]
    assert not [row for row in rows if row[2] > 1], rows
    said = [line for line in done.stderr.splitlines() if line.startswith("hf-ddistill: ")]
    assert len(said) == len(COMMANDS) and "Retry" not in done.stderr
    assert all("there is no" in line or "is not there" in line for line in said), said
    assert not (tmp_path / "out").exists()
