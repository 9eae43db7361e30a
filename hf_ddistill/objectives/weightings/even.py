"""No weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hf_ddistill.objectives.weightings.weighting import Weighting


@dataclass(frozen=True)
class Even(Weighting):
    """Every position counts 1."""

    citation: ClassVar[str] = (
        "Gao, Sun, Exact Conditional Distribution Matching, 2025, arXiv:2512.12889"
    )
