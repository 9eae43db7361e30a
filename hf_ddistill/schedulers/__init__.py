"""Schedulers for diffusers: a sampler, with temperature and truncation, on a grid of times."""

from hf_ddistill.parameterizations.sharpening import sharpened
from hf_ddistill.schedulers.scheduling_analytic import AnalyticScheduler
from hf_ddistill.schedulers.scheduling_ancestral import AncestralScheduler
from hf_ddistill.schedulers.scheduling_base import DiscreteSchedulerBase, DiscreteSchedulerOutput
from hf_ddistill.schedulers.scheduling_ctmc_euler import CTMCEulerScheduler
from hf_ddistill.schedulers.scheduling_jump import JumpScheduler
from hf_ddistill.schedulers.scheduling_sampler import SamplerScheduler, scheduler_for
from hf_ddistill.schedulers.scheduling_tau_leaping import TauLeapingScheduler

__all__ = [
    "AnalyticScheduler",
    "AncestralScheduler",
    "CTMCEulerScheduler",
    "DiscreteSchedulerBase",
    "DiscreteSchedulerOutput",
    "JumpScheduler",
    "SamplerScheduler",
    "TauLeapingScheduler",
    "scheduler_for",
    "sharpened",
]
