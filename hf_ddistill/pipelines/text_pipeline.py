"""`transformers.pipeline("discrete-diffusion")`: the same sampling by the other library's door."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from transformers import Pipeline
from transformers.modeling_utils import PreTrainedModel
from transformers.pipelines import PIPELINE_REGISTRY

from hf_ddistill.models import BlockDiffusionLM, unwrapped
from hf_ddistill.models.opening import AutoDiffusionModel
from hf_ddistill.pipelines.block_generation import AT_ONCE, generate_arguments
from hf_ddistill.pipelines.drafting import drafting, opened
from hf_ddistill.pipelines.files import scheduler_of
from hf_ddistill.pipelines.pipeline_discrete_diffusion import DiscreteDiffusionPipeline
from hf_ddistill.registration import TASK
from hf_ddistill.schedulers import DiscreteSchedulerBase

_OF_SCHEDULER = ("temperature", "top_k", "top_p")
_OF_CALL = ("input_ids", "infill", "length", "num_inference_steps", "class_labels")
_OF_CALL += ("guidance_scale", "generator", "output_type", "drafter")


class DiscreteDiffusionGenerationPipeline(Pipeline):
    """
    Samples from a discrete diffusion model, with or without a tokenizer.

    A call takes a prompt, some of them (a list, a generator, a data set) or nothing, and the
    arguments of `DiscreteDiffusionPipeline`; also `temperature`, `top_k`, `top_p`, and a
    `scheduler`. Without one, it is the scheduler that a pipeline was saved with in the model's
    folder, or else that of the model's own sampler. A `drafter`, a model or the name of one (give
    it to `transformers.pipeline`, and it is opened once), drafts for the model; the sampler is then
    `speculative`, and samples have `calls` and `tokens_per_call`. A `BlockDiffusionLM` decodes
    behind the prompts by its `generate`, whose settings it takes, and adds the same.

    One prompt or none gives a list with a dictionary for each sample: `generated_token_ids`, and
    `generated_text` or `generated_image`. A list of prompts gives a list of such lists, and a
    generator or data set an iterator over them.

    Args (of a call):
        batch_size: how many prompts run through the model together (1 if not given).
        num_return_sequences: samples for each prompt (1 if not given).
        generator: of random numbers; a list of them has one for each sample.

    Example:

    ```python
    generate = transformers.pipeline("discrete-diffusion", model="me/student")
    generate("Once upon a time", num_return_sequences=4, num_inference_steps=8)
    ```
    """

    _load_tokenizer = None
    _load_processor = False
    _load_image_processor = False
    _load_feature_extractor = False
    _load_video_processor = False

    def __call__(
        self,
        inputs: str | Iterable[str] | None = None,
        batch_size: int | None = None,
        num_return_sequences: int = 1,
        **kwargs: Any,
    ) -> list[dict[str, Any]] | list[list[dict[str, Any]]] | Iterator[list[dict[str, Any]]]:
        counts = {"batch_size": batch_size, "num_return_sequences": num_return_sequences}
        for name, count in counts.items():
            if count is not None and (not isinstance(count, int) or count < 1):
                raise ValueError(f"{name} must be an integer of at least 1, got {count!r}.")
        if inputs is None or isinstance(inputs, str):
            if (batch_size or 1) > 1:
                raise ValueError(
                    f"batch_size={batch_size} is the number of prompts that run together, and "
                    "there is one call to make: give num_return_sequences for several samples."
                )
            return self._run([inputs], num_return_sequences, kwargs)[0]
        if hasattr(inputs, "__getitem__") and hasattr(inputs, "__len__"):
            prompts = (inputs[i] for i in range(len(inputs)))  # a data set may have no iterator
        elif isinstance(inputs, Iterable):
            prompts = inputs
        else:
            raise ValueError(f"Prompts are a string or some strings, got {type(inputs).__name__}.")
        groups = self._groups(
            prompts, batch_size or self._batch_size or 1, num_return_sequences, kwargs
        )
        return list(groups) if isinstance(inputs, list | tuple) else groups

    def _groups(
        self, prompts: Iterable[str], batch_size: int, each: int, kwargs: dict[str, Any]
    ) -> Iterator[list[dict[str, Any]]]:
        """The samples of each prompt, some prompts at a time, as they are asked for."""
        generators, done = kwargs.get("generator"), 0
        several = isinstance(generators, list | tuple)
        for batch in _batches(prompts, batch_size):
            own = {}
            if several:
                own["generator"] = generators[done * each : (done + len(batch)) * each]
            done += len(batch)
            yield from self._run(batch, each, kwargs | own)
        if several and done * each != len(generators):
            raise ValueError(f"Got {len(generators)} generators for {done * each} samples.")

    def _run(
        self, prompts: list[str | None], each: int, kwargs: dict[str, Any]
    ) -> list[list[dict[str, Any]]]:
        """The samples of some prompts that go through the model together."""
        rows = super().__call__({"prompts": prompts, "num_return_sequences": each}, **kwargs)
        size = len(rows) // len(prompts)
        return [rows[i : i + size] for i in range(0, len(rows), size)]

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Save model, tokenizer and scheduler, as the pipeline of diffusers does.

        The method of transformers copies this file next to them and enters it in the model's
        configuration; from then on, loading asks for `trust_remote_code`.
        """
        self._sampler().save_pretrained(save_directory, **kwargs)

    def _sampler(self) -> DiscreteDiffusionPipeline:
        """The pipeline of diffusers that does the work, with the scheduler that was saved."""
        pipe = DiscreteDiffusionPipeline.from_model(self.model, tokenizer=self.tokenizer)
        pipe.set_progress_bar_config(disable=True)
        saved = getattr(unwrapped(self.model), "saved_scheduler", None)
        if saved is not None:
            pipe.scheduler = scheduler_of(saved)
        return pipe

    def _sanitize_parameters(
        self, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        known = {*_OF_CALL, *generate_arguments(), *_OF_SCHEDULER, "scheduler"}
        unknown = sorted(set(kwargs) - set(known))
        if unknown:
            raise ValueError(
                f"{TASK} takes no {', '.join(unknown)}; it takes: {', '.join(sorted(known))}."
            )
        if kwargs.get("drafter") is not None:
            kwargs["drafter"] = opened(kwargs["drafter"]).to(self.device)
        return {}, kwargs, {}

    def preprocess(self, input_: dict[str, Any]) -> dict[str, Any]:
        """The arguments as they are: what becomes of a prompt, the other pipeline knows."""
        return input_

    def _forward(
        self,
        model_inputs: dict[str, Any],
        scheduler: DiscreteSchedulerBase | None = None,
        drafter: PreTrainedModel | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        pipe = self._sampler()
        if drafter is not None:
            pipe.register_modules(drafter=drafter)
            pipe.scheduler = drafting(pipe.scheduler)
        prompts, each = model_inputs["prompts"], model_inputs["num_return_sequences"]
        at_once = scheduler is not None or any(key in kwargs for key in AT_ONCE)
        if isinstance(unwrapped(self.model), BlockDiffusionLM) and not at_once:
            prompts = None if prompts == [None] else prompts
            return pipe(prompts, num_return_sequences=each, **kwargs)
        scheduler = pipe.scheduler if scheduler is None else scheduler
        settings = {key: kwargs.pop(key) for key in _OF_SCHEDULER if key in kwargs}
        pipe.scheduler = type(scheduler).from_config(scheduler.config, **settings)
        if prompts == [None]:
            kwargs, rows = _repeated(kwargs, each)
            return pipe(batch_size=rows, **kwargs)
        return pipe([prompt for prompt in prompts for _ in range(each)], **kwargs)

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


def _repeated(given: dict[str, Any], each: int) -> tuple[dict[str, Any], int]:
    """Arguments with each of their rows `each` times, and the number of rows."""
    given, rows = dict(given), 1
    for name in ("input_ids", "infill", "class_labels"):
        value = given.get(name)
        value = None if value is None else torch.as_tensor(value)
        several = value is not None and value.ndim == 1 + (name != "class_labels")
        if several and len(value) > 1:
            given[name], rows = value.repeat_interleave(each, 0), len(value)
    return given, rows * each


def _batches(prompts: Iterable[str], size: int) -> Iterator[list[str]]:
    """Runs of at most `size` prompts."""
    batch: list[str] = []
    for prompt in prompts:
        if not isinstance(prompt, str):
            raise ValueError(
                f"A prompt must be a string, got {prompt!r}; of a data set with columns, give one "
                "of them (transformers.pipelines.pt_utils.KeyDataset)."
            )
        batch.append(prompt)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


PIPELINE_REGISTRY.supported_tasks.pop(TASK, None)  # what stood in for it
PIPELINE_REGISTRY.register_pipeline(
    TASK,
    pipeline_class=DiscreteDiffusionGenerationPipeline,
    pt_model=AutoDiffusionModel,
    type="text",
)

__all__ = ["TASK", "DiscreteDiffusionGenerationPipeline"]
