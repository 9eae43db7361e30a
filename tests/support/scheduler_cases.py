"""Schedulers that tests share."""

from __future__ import annotations

import pytest
import torch

from hf_ddistill.diffusion import Diffusion
from hf_ddistill.samplers import Analytic, Ancestral, Euler, Jump, TauLeaping
from hf_ddistill.schedulers import (
    AnalyticScheduler,
    AncestralScheduler,
    CTMCEulerScheduler,
    JumpScheduler,
    SamplerScheduler,
    TauLeapingScheduler,
)
from hf_ddistill.schedules import LogLinear

SAMPLERS = {
    AncestralScheduler: Ancestral(),
    AnalyticScheduler: Analytic(),
    CTMCEulerScheduler: Euler(),
    JumpScheduler: Jump(),
    SamplerScheduler: Ancestral(),
    TauLeapingScheduler: TauLeaping(),
}


SCHEDULERS = list(SAMPLERS)


schedulers = pytest.mark.parametrize("scheduler_class", SCHEDULERS, ids=lambda c: c.__name__)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def made(scheduler_class, process, schedule=None, **settings):
    diffusion = Diffusion(process, schedule or LogLinear())
    return scheduler_class(**diffusion.to_config(), **settings)
