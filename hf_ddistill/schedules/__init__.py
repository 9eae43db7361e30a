"""Noise schedules: t in [0, 1] to the total noise, one file for each."""

from hf_ddistill.schedules.cosine import Cosine
from hf_ddistill.schedules.geometric import Geometric
from hf_ddistill.schedules.linear import Linear
from hf_ddistill.schedules.log_linear import LogLinear
from hf_ddistill.schedules.piecewise_linear import PiecewiseLinear
from hf_ddistill.schedules.polynomial import Polynomial
from hf_ddistill.schedules.schedule import Schedule
from hf_ddistill.schedules.sine import Sine

__all__ = [
    "Cosine",
    "Geometric",
    "Linear",
    "LogLinear",
    "PiecewiseLinear",
    "Polynomial",
    "Schedule",
    "Sine",
]
