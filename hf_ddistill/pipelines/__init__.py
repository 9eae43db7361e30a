"""Sampling pipelines: for diffusers, and for transformers under the task "discrete-diffusion"."""

from hf_ddistill.pipelines.pipeline_discrete_diffusion import (
    DiscreteDiffusionPipeline,
    DiscreteDiffusionPipelineOutput,
)
from hf_ddistill.pipelines.pipeline_output import to_images
from hf_ddistill.pipelines.text_pipeline import TASK, DiscreteDiffusionGenerationPipeline

__all__ = [
    "TASK",
    "DiscreteDiffusionGenerationPipeline",
    "DiscreteDiffusionPipeline",
    "DiscreteDiffusionPipelineOutput",
    "to_images",
]
