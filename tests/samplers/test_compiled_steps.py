"""A planned step of masked diffusion is one graph: nothing in it is looked at by the host."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "support" / "compiled_step.py"


@pytest.mark.slow
def test_a_planned_step_compiles_without_a_break():
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
