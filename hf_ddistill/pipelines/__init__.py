"""Sampling pipelines: for diffusers, and for transformers under the task "discrete-diffusion"."""

from hf_ddistill.pipelines.pipeline_discrete_diffusion import (
    DiscreteDiffusionPipeline,
    DiscreteDiffusionPipelineOutput,
)
from hf_ddistill.pipelines.pipeline_output import grey_levels, to_images
from hf_ddistill.pipelines.text_pipeline import TASK, DiscreteDiffusionGenerationPipeline
from hf_ddistill.pipelines.trace import Moment, Trace

__all__ = [
    "TASK",
    "DiscreteDiffusionGenerationPipeline",
    "DiscreteDiffusionPipeline",
    "DiscreteDiffusionPipelineOutput",
    "Moment",
    "Trace",
    "grey_levels",
    "to_images",
]
