"""`transformers.pipeline("discrete-diffusion")`: the same sampling by the other library's door."""

from __future__ import annotations

import os
from typing import Any

import torch
from transformers import Pipeline
from transformers.pipelines import PIPELINE_REGISTRY

from hf_ddistill.models import BlockDiffusionLM, unwrapped
from hf_ddistill.models.opening import AutoDiffusionModel
from hf_ddistill.pipelines.block_generation import AT_ONCE, generate_arguments
from hf_ddistill.pipelines.pipeline_discrete_diffusion import DiscreteDiffusionPipeline
from hf_ddistill.schedulers import DiscreteSchedulerBase

TASK = "discrete-diffusion"
_OF_SCHEDULER = ("temperature", "top_k", "top_p")
_OF_CALL = ("input_ids", "infill", "length", "num_inference_steps", "class_labels")
_OF_CALL += ("guidance_scale", "generator", "output_type")


class DiscreteDiffusionGenerationPipeline(Pipeline):
    """
    Samples from a discrete diffusion model, with or without a tokenizer.

    A call takes a prompt, a list of prompts or nothing, and the arguments of
    `DiscreteDiffusionPipeline`; also `temperature`, `top_k`, `top_p`, and a `scheduler` to be used
    instead of `AncestralScheduler`. It returns a list with a dictionary for each sample:
    `generated_token_ids`, and `generated_text` or `generated_image`. A `BlockDiffusionLM` decodes
    behind the prompts by its `generate`, whose settings it takes, and adds `calls` and
    `tokens_per_call`.

    Example:

    ```python
    generate = transformers.pipeline("discrete-diffusion", model="me/student")
    generate("Once upon a time", batch_size=4, num_inference_steps=8)
    ```
    """

    _load_tokenizer = None
    _load_processor = False
    _load_image_processor = False
    _load_feature_extractor = False
    _load_video_processor = False

    def __call__(
        self,
        inputs: str | list[str] | None = None,
        batch_size: int | None = None,
        **kwargs: Any,
    ) -> list[dict[str, Any]]:
        # One item, so that all samples go through the network together.
        samples = batch_size or self._batch_size or 1
        return super().__call__({"prompt": inputs, "batch_size": samples}, **kwargs)

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Save model and tokenizer.

        The method of transformers copies this file next to them and enters it in the model's
        configuration; from then on, loading asks for `trust_remote_code`.
        """
        self.model.save_pretrained(save_directory, **kwargs)
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(save_directory, **kwargs)

    def _sanitize_parameters(
        self, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        known = {*_OF_CALL, *generate_arguments(), *_OF_SCHEDULER, "scheduler"}
        unknown = sorted(set(kwargs) - set(known))
        if unknown:
            raise ValueError(
                f"{TASK} takes no {', '.join(unknown)}; it takes: {', '.join(sorted(known))}."
            )
        return {}, kwargs, {}

    def preprocess(self, input_: dict[str, Any]) -> dict[str, Any]:
        """The arguments as they are: what becomes of a prompt, the other pipeline knows."""
        return input_

    def _forward(
        self,
        model_inputs: dict[str, Any],
        scheduler: DiscreteSchedulerBase | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        pipe = DiscreteDiffusionPipeline.from_model(self.model, tokenizer=self.tokenizer)
        pipe.set_progress_bar_config(disable=True)
        at_once = scheduler is not None or any(key in kwargs for key in AT_ONCE)
        if isinstance(unwrapped(self.model), BlockDiffusionLM) and not at_once:
            return pipe(**model_inputs, **kwargs)
        scheduler = pipe.scheduler if scheduler is None else scheduler
        settings = {key: kwargs.pop(key) for key in _OF_SCHEDULER if key in kwargs}
        pipe.scheduler = type(scheduler).from_config(scheduler.config, **settings)
        return pipe(**model_inputs, **kwargs)

    def postprocess(self, model_outputs: dict[str, Any]) -> list[dict[str, Any]]:
        """One dictionary for each sample."""
        samples: torch.Tensor = model_outputs["sequences"]
        rows = [{"generated_token_ids": ids} for ids in samples.tolist()]
        for name in ("calls", "tokens_per_call"):
            for row, value in zip(rows, model_outputs.get(name, torch.empty(0)), strict=False):
                row[name] = value.item()
        for field, name in (("texts", "generated_text"), ("images", "generated_image")):
            for row, value in zip(rows, model_outputs.get(field) or (), strict=False):
                row[name] = value
        return rows


PIPELINE_REGISTRY.register_pipeline(
    TASK,
    pipeline_class=DiscreteDiffusionGenerationPipeline,
    pt_model=AutoDiffusionModel,
    type="text",
)

__all__ = ["TASK", "DiscreteDiffusionGenerationPipeline"]
