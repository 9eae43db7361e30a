"""Distillation of discrete diffusion models for the Hugging Face world.

A many-step discrete-diffusion teacher becomes a student that samples in a few network calls, with
the verbs of transformers and diffusers. See the README for a first run.

Importing this package imports no torch: a name is imported when it is used. The models are known
to the Auto classes of transformers, and the pipelines to both libraries, as soon as those are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_ddistill.lazy import lazy_names
from hf_ddistill.registration import register_when_asked

if TYPE_CHECKING:
    from hf_ddistill.convert import Converter, to_block_diffusion
    from hf_ddistill.denoisers import Denoiser
    from hf_ddistill.diffusion import Diffusion
    from hf_ddistill.evaluation import Judge
    from hf_ddistill.models import (
        BlockDiffusionConfig,
        BlockDiffusionLM,
        DDiTConfig,
        DDiTForDiscreteDiffusion,
        as_denoiser,
    )
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
    from hf_ddistill.samplers import Sampler
    from hf_ddistill.schedulers import (
        AnalyticScheduler,
        AncestralScheduler,
        CTMCEulerScheduler,
        JumpScheduler,
        SamplerScheduler,
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
        Sine,
    )
    from hf_ddistill.training import (
        DiscreteDiffusionConfig,
        DiscreteDiffusionTrainer,
        DiscreteDistillationConfig,
        DiscreteDistillationTrainer,
    )

__version__ = "0.1.0"

__all__ = [
    "Absorbing",
    "AnalyticScheduler",
    "AncestralScheduler",
    "BlockDiffusionConfig",
    "BlockDiffusionLM",
    "CTMCEulerScheduler",
    "Converter",
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
    "Judge",
    "JumpScheduler",
    "Kronecker",
    "Linear",
    "LogLinear",
    "LowRank",
    "Objective",
    "Ordinal",
    "PiecewiseLinear",
    "Polynomial",
    "Prediction",
    "Process",
    "Sampler",
    "SamplerScheduler",
    "Schedule",
    "Sine",
    "TauLeapingScheduler",
    "Uniform",
    "as_denoiser",
    "to_block_diffusion",
]

__getattr__, __dir__ = lazy_names(__name__, __file__)

register_when_asked()
