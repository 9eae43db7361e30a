"""The benchmark of molecules from its first line to its last."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "benchmarks" / "molecules.py"


@pytest.mark.slow
def test_the_benchmark_runs_without_any_file(tmp_path):
    """About 20 s of one core: teacher, both students and their figures on the example's strings."""
    pytest.importorskip("rdkit")
    pytest.importorskip("fcd")
    command = [sys.executable, str(SCRIPT), "--fast", "--output", str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=550)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert (tmp_path / "molecules.json").exists()
