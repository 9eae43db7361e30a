"""What can be told from the arguments alone is told before any library is imported."""

from __future__ import annotations

import json
import subprocess
import sys

DISTILL = ["distill", "--teacher", "t", "--data", "digits", "--output", "o"]
CALLS = [  # the arguments, and the exit code
    (["--help"], 0),
    (["--version"], 0),
    ([], 0),
    *(
        ([name, "--help"], 0)
        for name in ("quickstart", "teacher", "distill", "sample", "evaluate", "exact", "diagnose")
    ),
    *(([name, "--help"], 0) for name in ("list", "convert", "card", "push")),
    (["distill", "--objective", "opdlm", "--help"], 0),
    (["nonsense"], 2),
    (["--nonsense"], 2),
    (["distill"], 2),
    ([*DISTILL, "--steps", "abc"], 2),
    ([*DISTILL, "--nonsense", "1"], 2),
    ([*DISTILL, "--objective", "nonsense"], 2),
    ([*DISTILL, "--objective", '{"type": "ecd", "nonsense": 1}'], 2),
    ([*DISTILL, "--objective.maskings", "x"], 2),
    ([*DISTILL, "--objective.nonsense", "1"], 2),
    ([*DISTILL, "--noise-std", "2"], 2),
    ([*DISTILL, "--report-to", "nonsense"], 2),
    ([*DISTILL, "--data", "digits:many"], 2),
    ([*DISTILL, "--data", "nowhere.jsonl"], 2),
    ([*DISTILL, "--eval-steps", "3"], 2),
    ([*DISTILL, "--config", "nowhere.yaml"], 2),
    (["teacher", "--data", "digits", "--output", "o", "--process", "nonsense"], 2),
    (["sample", "m", "--sampler", "nonsense"], 2),
    (["sample", "m", "--device", "?"], 2),
    (["sample", "m", "--json", "/"], 2),
    (["exact", "--problem", "nonsense"], 2),
    (["exact", "--objective", "nonsense"], 2),
    (["diagnose"], 2),
    (["convert", "m", "--output", "o", "--block-size", "x"], 2),
    (["evaluate", "m", "--max-length", "3"], 2),
]
HEAVY = ("torch", "numpy", "transformers", "diffusers", "datasets", "peft", "sklearn", "matplotlib")
PROGRAM = """
import json, sys
from hf_ddistill.cli import main
for argv, code in json.loads(sys.argv[1]):
    try:
        got = main(argv)
    except SystemExit as stop:
        got = stop.code
    assert (got or 0) == code, (argv, got)
    print(json.dumps([argv, [name for name in json.loads(sys.argv[2]) if name in sys.modules]]))
"""


def test_a_command_line_that_runs_nothing_imports_a_library():
    given = [json.dumps(CALLS), json.dumps(HEAVY)]
    done = subprocess.run([sys.executable, "-c", PROGRAM, *given], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[[")]
    assert [argv for argv, _ in told] == [argv for argv, _ in CALLS]
    assert not [(argv, found) for argv, found in told if found]
    sentences = done.stderr.strip().splitlines()
    assert len(sentences) == sum(code == 2 for _, code in CALLS), done.stderr
    assert all(sentence.startswith("hf-ddistill") for sentence in sentences)
