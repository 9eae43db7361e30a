"""The golden numbers."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file

DATA = Path(__file__).parents[1] / "data" / "golden"


def golden(name):
    """The arrays of one file; floating point in float64."""
    arrays = load_file(DATA / f"{name}.safetensors")
    return {key: a.double() if a.is_floating_point() else a for key, a in arrays.items()}
