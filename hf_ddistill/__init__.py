"""Distillation of discrete diffusion models for the Hugging Face world.

A many-step discrete-diffusion teacher becomes a student that samples in a few network calls, with
the verbs of transformers and diffusers. See the README for a first run.
"""

from __future__ import annotations

import importlib
from typing import Any

from hf_ddistill.denoisers import Denoiser

# Eager: diffusers resolves the components that a model_index.json names in sys.modules only.
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.models import DDiTConfig, DDiTForDiscreteDiffusion, as_denoiser
from hf_ddistill.objectives import Objective
from hf_ddistill.parameterizations import Prediction
from hf_ddistill.pipelines import DiscreteDiffusionPipeline
from hf_ddistill.processes import (
    Absorbing,
    General,
    Hybrid,
    Kronecker,
    LowRank,
    Ordinal,
    Process,
    Uniform,
)
from hf_ddistill.schedulers import (
    AnalyticScheduler,
    AncestralScheduler,
    CTMCEulerScheduler,
    JumpScheduler,
    TauLeapingScheduler,
)
from hf_ddistill.schedules import (
    Cosine,
    Geometric,
    Linear,
    LogLinear,
    PiecewiseLinear,
    Polynomial,
    Schedule,
)

__version__ = "0.1.0"

# Lazy: trainers bring peft and datasets, which sampling does not need.
_TRAINING = (
    "DiscreteDiffusionConfig",
    "DiscreteDiffusionTrainer",
    "DiscreteDistillationConfig",
    "DiscreteDistillationTrainer",
)

__all__ = [
    "Absorbing",
    "AnalyticScheduler",
    "AncestralScheduler",
    "CTMCEulerScheduler",
    "Cosine",
    "DDiTConfig",
    "DDiTForDiscreteDiffusion",
    "Denoiser",
    "Diffusion",
    "DiscreteDiffusionConfig",
    "DiscreteDiffusionPipeline",
    "DiscreteDiffusionTrainer",
    "DiscreteDistillationConfig",
    "DiscreteDistillationTrainer",
    "General",
    "Geometric",
    "Hybrid",
    "Kronecker",
    "Linear",
    "JumpScheduler",
    "LogLinear",
    "LowRank",
    "Objective",
    "Ordinal",
    "PiecewiseLinear",
    "Polynomial",
    "Prediction",
    "Process",
    "Schedule",
    "TauLeapingScheduler",
    "Uniform",
    "as_denoiser",
]


def __getattr__(name: str) -> Any:
    if name in _TRAINING:
        return getattr(importlib.import_module("hf_ddistill.training"), name)
    raise AttributeError(f"module 'hf_ddistill' has no attribute {name!r}")
