"""Every benchmark finds the names that it uses."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

pytestmark = pytest.mark.usefixtures("registries_of_their_own")
BENCHMARKS = Path(__file__).parents[2] / "examples" / "benchmarks"


@pytest.mark.parametrize("name", sorted(path.stem for path in BENCHMARKS.glob("*.py")))
def test_a_benchmark_imports_what_is_not_there(name):
    module = importlib.import_module(name)
    assert Path(module.__file__).parent == BENCHMARKS and module.__doc__
