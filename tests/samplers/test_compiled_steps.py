"""A planned step of masked diffusion, and a scheduler's step under masks and uniform noise, is one
graph: nothing in it is looked at by the host."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SUPPORT = Path(__file__).parents[1] / "support"


@pytest.mark.slow
@pytest.mark.parametrize(
    "script",
    [["compiled_step.py"], *(["compiled_scheduler.py", n] for n in ("absorbing", "uniform"))],
)
def test_a_step_compiles_without_a_break(script):
    name, *more = script
    done = subprocess.run([sys.executable, SUPPORT / name, *more], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
