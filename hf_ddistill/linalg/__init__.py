"""Structured K x K operators that act on row vectors, and draws from the laws that they
describe."""

from hf_ddistill.linalg.checks import Questions, asked_at_the_end, asked_later, require
from hf_ddistill.linalg.constants import on
from hf_ddistill.linalg.dense import Dense
from hf_ddistill.linalg.draw import (
    bernoulli,
    categorical,
    categorical_at,
    categorical_of_logs,
    generators_of,
    normal_noise,
    uniform_noise,
)
from hf_ddistill.linalg.keyed_noise import keyed_generator
from hf_ddistill.linalg.kronecker import KroneckerProduct, KroneckerSum
from hf_ddistill.linalg.operator import LinearOperator, beside, columns_of_batch
from hf_ddistill.linalg.row_streams import RowStreams
from hf_ddistill.linalg.scalar_plus_low_rank import ScalarPlusLowRank, draw_from
from hf_ddistill.linalg.spectral import Spectral
from hf_ddistill.linalg.tridiagonal import Tridiagonal
from hf_ddistill.linalg.verify_drafts import verify_drafts

__all__ = [
    "Dense",
    "KroneckerProduct",
    "KroneckerSum",
    "LinearOperator",
    "RowStreams",
    "Questions",
    "ScalarPlusLowRank",
    "Spectral",
    "Tridiagonal",
    "asked_at_the_end",
    "asked_later",
    "beside",
    "columns_of_batch",
    "bernoulli",
    "categorical",
    "categorical_at",
    "categorical_of_logs",
    "draw_from",
    "generators_of",
    "keyed_generator",
    "normal_noise",
    "on",
    "require",
    "uniform_noise",
    "verify_drafts",
]
