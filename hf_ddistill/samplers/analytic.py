"""Analytic steps: Tweedie tau-leaping on the score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hf_ddistill.samplers.ancestral import PosteriorSteps
from hf_ddistill.samplers.sampler import Sampler


@dataclass(frozen=True)
class Analytic(PosteriorSteps, Sampler):
    """(P_st^-1 score) * P_st[., x_t] (Theorem 4.2).

    The score of a prediction is w P_0t with w = p(x_0 | x_t) / P_0t[x_0, x_t], and P_0t is P_0s
    P_st: so P_st^-1 score is w P_0s, with no kernel inverted (many cannot be, near t = 1), and the
    step is the ancestral one.
    """

    id: ClassVar[str] = "analytic"
    citation: ClassVar[str] = "Lou et al., SEDD, 2023, arXiv:2310.16834"
