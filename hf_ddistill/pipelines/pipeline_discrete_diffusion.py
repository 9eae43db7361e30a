"""The pipeline for diffusers: a model, a scheduler and, for text, a tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import diffusers
import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from transformers.modeling_utils import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from hf_ddistill.denoisers import Denoiser
from hf_ddistill.models import check_finite, sequence_length, unwrapped
from hf_ddistill.models.held import Held
from hf_ddistill.pipelines.block_generation import decoded, decodes_blocks
from hf_ddistill.pipelines.drafting import calls_told, drafted_by
from hf_ddistill.pipelines.inputs import (
    check_adapters,
    check_callback,
    check_generator,
    check_guidance,
    label_tensor,
    lay_out,
    num_rows,
)
from hf_ddistill.pipelines.network import ROW, denoiser_on, evaluating
from hf_ddistill.pipelines.pipeline_output import DiscreteDiffusionPipelineOutput, to_images
from hf_ddistill.pipelines.prompts import beginnings
from hf_ddistill.pipelines.saved_pipeline import SavedPipeline
from hf_ddistill.pipelines.scheduled import Steered, runs_by_itself, sharpened_by, stepped_by
from hf_ddistill.pipelines.texts import end_tokens, texts_of
from hf_ddistill.pipelines.watched import Said, Watched
from hf_ddistill.samplers import Canvas, Progress, Reached
from hf_ddistill.schedulers import DiscreteSchedulerBase
from hf_ddistill.shapes import Generators, Tokens

#: What a callback is given that only a scheduler's step says.
_OF_STEPS = frozenset({"pred_original_sample", "sampled_probs"})


class DiscreteDiffusionPipeline(SavedPipeline):
    """
    Samples text, images or other tokens from a discrete diffusion model.

    What the model predicts, and of which process, stands in its `config.discrete_diffusion`.

    Args:
        model (`PreTrainedModel`): any that `as_denoiser` takes.
        scheduler (`DiscreteSchedulerBase`): of the model's process.
        tokenizer (`PreTrainedTokenizerBase`, *optional*): needed for text alone.
        drafter (`PreTrainedModel`, *optional*): another model of the same tokens, such as a student
            of few steps, that drafts for the sampler `speculative`: the law is the model's own.

    Raises:
        ValueError: for a model whose adapters put tokens before its input.

    Example:

    ```python
    pipe = DiscreteDiffusionPipeline.from_pretrained("me/student")
    pipe.scheduler = CTMCEulerScheduler.from_config(pipe.scheduler.config, temperature=0.9)
    texts = pipe("Once upon a time", batch_size=4, num_inference_steps=8).texts
    ```
    """

    model_cpu_offload_seq = "drafter->model"
    _optional_components = ["tokenizer", "drafter"]
    _callback_tensor_inputs = ["sequences", "changed", "confidence"]
    _callback_tensor_inputs += ["pred_original_sample", "sampled_probs"]
    _guidance_scale = 1.0
    _interrupt = False
    _num_timesteps = 0

    def __init__(
        self,
        model: PreTrainedModel,
        scheduler: DiscreteSchedulerBase,
        tokenizer: PreTrainedTokenizerBase | None = None,
        drafter: PreTrainedModel | None = None,
    ) -> None:
        super().__init__()
        check_adapters(model)
        self.register_modules(
            model=model, scheduler=scheduler, tokenizer=tokenizer, drafter=drafter
        )

    @property
    def num_timesteps(self) -> int:
        """Steps of the last call."""
        return self._num_timesteps

    @property
    def guidance_scale(self) -> float:
        """That of the last call; a callback that sets `_guidance_scale` changes the steps after
        it."""
        return self._guidance_scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Whether the model is called twice at each step."""
        return self._guidance_scale > 1

    @property
    def interrupt(self) -> bool:
        """Whether a callback has set `_interrupt`, after which the model is not called again."""
        return self._interrupt

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        input_ids: torch.LongTensor | None = None,
        infill: torch.BoolTensor | None = None,
        batch_size: int = 1,
        length: int | None = None,
        num_inference_steps: int | None = None,
        *,
        class_labels: int | Sequence[int] | torch.Tensor | None = None,
        guidance_scale: float = 1.0,
        generator: Generators = None,
        output_type: str | None = None,
        return_dict: bool = True,
        callback_on_step_end: Callable[..., dict] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("sequences",),
        **generation: Any,
    ) -> DiscreteDiffusionPipelineOutput | tuple:
        """
        Draw samples; a `BlockDiffusionLM` decodes behind prompts unless `infill`, `length` or
        `num_inference_steps` are given.

        Given tokens are held at every step, and the model sees them clean. That is exact for masks;
        for other processes it is an approximation, since the model was trained on noised ones.

        Args:
            prompt (`str` or `list[str]`, *optional*):
                how the samples begin, encoded as the tokenizer does it, special tokens included;
                for samples of all positions at once without those that it puts at the end. Mask
                tokens in it are generated too.
            input_ids (`torch.LongTensor` of shape `(p,)` or `(n, p)`, *optional*):
                the same as tokens.
            infill (`torch.BoolTensor` of the shape of `input_ids`, *optional*):
                True where a token is to be generated, False where it is kept.
            batch_size (`int`): number of samples; one prompt or label serves all of them.
            length (`int`, *optional*): L; the model's largest if not given.
            num_inference_steps (`int`, *optional*): the scheduler's own number if not given. Under
                masks a step that draws nothing makes no call of the model, so that no more calls
                than tokens are made; without a callback each sample has its own clock.
            class_labels (`int`, list or `torch.LongTensor` of shape `(n,)`, *optional*):
                -1 is the null class.
            guidance_scale (`float`): g of classifier-free guidance as in diffusers: log p is
                proportional to g log p(x_0 | x_t, c) - (g - 1) log p(x_0 | x_t). It costs a second
                call of the model at each step; 1 turns it off, and less is refused. (`Guided` and
                `hf-ddistill sample --guidance` take the paper's weight w = g - 1.)
            generator (`torch.Generator` or a list of them, *optional*):
                with a list, one for each sample, no sample depends on its batch.
            output_type (`str`, *optional*): `"text"`, `"tokens"` or `"image"`; text if there is a
                tokenizer, else tokens. Tokens are always in the output.
            return_dict (`bool`): whether to return a `DiscreteDiffusionPipelineOutput` instead of
                the tuple of its entries that are not None.
            callback_on_step_end (`Callable`, *optional*): called with `(pipeline, step, timestep,
                tensors)`; `sequences` in the dictionary that it returns replaces the sample, and
                setting `pipeline._interrupt = True` ends the call with it as it is.
            callback_on_step_end_tensor_inputs (`Sequence[str]`): the tensors that it is given:
                `sequences`; `changed`, where the step has put another token; `confidence`, how
                likely the model said that those are (NaN elsewhere, or if it is not known); and
                the entries of `DiscreteSchedulerOutput`.
            **generation: settings of `BlockDiffusionLM.generate`, such as `max_new_tokens`.
        """
        if isinstance(callback_on_step_end, PipelineCallback | MultiPipelineCallbacks):
            callback_on_step_end_tensor_inputs = callback_on_step_end.tensor_inputs
        if output_type is None:
            output_type = "tokens" if self.tokenizer is None else "text"
        self.check_inputs(prompt, input_ids, infill, output_type)
        check_callback(callback_on_step_end_tensor_inputs, self._callback_tensor_inputs)
        others = {"infill": infill, "length": length, "num_inference_steps": num_inference_steps}
        others |= {"class_labels": class_labels, "drafter": self.drafter}
        others["guidance_scale"] = None if guidance_scale == 1 else guidance_scale
        if decodes_blocks(self.model, generation, others):
            check_finite(self.model, type(unwrapped(self.model)).__name__)
            given = beginnings(self.tokenizer, prompt, input_ids, whole=True)
            callback = (callback_on_step_end, callback_on_step_end_tensor_inputs)
            generation |= {"generator": generator, "callback": callback}
            output = decoded(self, given, batch_size, output_type == "text", **generation)
            return output if return_dict else output.to_tuple()
        config, device = unwrapped(self.model).config, self._execution_device
        denoiser = denoiser_on(self.model, self.scheduler.diffusion, self.tokenizer)
        labels = label_tensor(config, class_labels)
        given = beginnings(self.tokenizer, prompt, input_ids)
        rows = num_rows(batch_size, len(given), 1 if labels is None else len(labels))
        check_generator(generator, rows)
        check_guidance(guidance_scale, labels)
        shape = (rows, sequence_length(self.model, length))
        canvas = lay_out(given, infill, shape, denoiser.diffusion, Held.of(config)).to(device)
        self._guidance_scale, self._interrupt = guidance_scale, False
        if num_inference_steps is None:
            num_inference_steps = self.scheduler.config.num_inference_steps
        self.scheduler.set_timesteps(num_inference_steps, device)
        self._num_timesteps = len(self.scheduler.timesteps)
        condition = {} if labels is None else {"class_labels": labels.expand(rows).to(device)}
        condition[ROW] = torch.arange(rows, device=device)
        denoiser = drafted_by(self, denoiser, canvas, labels)
        callback = (callback_on_step_end, callback_on_step_end_tensor_inputs)
        with evaluating(self.model, self.drafter):
            sequences = self._denoised(denoiser, canvas, condition, generator, callback)
        self.maybe_free_model_hooks()
        output = self._output(sequences, canvas, output_type, calls_told(denoiser, canvas))
        return output if return_dict else output.to_tuple()

    def _denoised(
        self,
        denoiser: Denoiser,
        canvas: Canvas,
        condition: dict[str, torch.Tensor],
        generator: Generators,
        callback: tuple[Callable[..., dict | None] | None, Sequence[str]],
    ) -> Tokens:
        """All steps of the scheduler, from noise to samples (B, L)."""
        call, names = callback

        def scale() -> float:
            check_guidance(self._guidance_scale, condition.get("class_labels"))
            return self._guidance_scale

        denoiser, said = Steered(denoiser, scale), Said() if "confidence" in names else None
        if said is not None:
            denoiser = Watched(denoiser, said)
        sampler = stepped = stepped_by(self.scheduler)
        asked = call is not None and not _OF_STEPS.isdisjoint(names)
        if runs_by_itself(self.scheduler, asked):
            sampler, denoiser = self.scheduler.sampler, sharpened_by(self.scheduler, denoiser)

        def on_step(reached: Reached[Tokens]) -> None:
            changed = reached.state != reached.before
            tensors = {**stepped.output, "sequences": reached.state, "changed": changed}
            if said is not None:
                tensors["confidence"] = said.confidence(reached.before, reached.state)
            given = {name: tensors.get(name) for name in names}
            timestep = self.scheduler.timesteps[reached.number]
            returned = call(self, reached.number, timestep, given) or {}
            reached.state = returned.get("sequences", reached.state)
            reached.stop = self._interrupt
            progress.update()

        with self.progress_bar(total=self._num_timesteps) as progress:
            total = self._num_timesteps
            told = Progress(lambda share: progress.update(round(share * total) - progress.n))
            watching = told if call is None else on_step
            grid = self.scheduler.grid
            return sampler.sample(denoiser, canvas, grid, generator, watching, **condition)

    def check_inputs(
        self,
        prompt: str | list[str] | None,
        input_ids: torch.Tensor | None,
        infill: torch.Tensor | None,
        output_type: str,
    ) -> None:
        """Raise if arguments exclude each other, or ask for what the components cannot do."""
        if prompt is not None and input_ids is not None:
            raise ValueError("Give `prompt` or `input_ids`, not both.")
        prompts = prompt if isinstance(prompt, list) else [prompt or ""]
        if not prompts or not all(isinstance(text, str) for text in prompts):
            raise ValueError(f"`prompt` must be a string or a list of some, got {prompt!r}.")
        if prompt is not None and self.tokenizer is None:
            raise ValueError("A `prompt` needs a tokenizer, and there is none; give `input_ids`.")
        if infill is not None and input_ids is None:
            raise ValueError("`infill` needs the `input_ids` that it keeps or fills.")
        if output_type not in ("text", "tokens", "image"):
            raise ValueError(f"output_type must be text, tokens or image, got {output_type!r}.")
        if output_type == "text" and self.tokenizer is None:
            raise ValueError("output_type='text' needs a tokenizer, and there is none.")
        grid = getattr(unwrapped(self.model).config, "token_shape", None)
        if output_type == "image" and len(grid or ()) != 2:
            raise ValueError(
                f"output_type='image' needs a model with a token_shape of two axes, got {grid}."
            )

    def _output(
        self, sequences: Tokens, canvas: Canvas, output_type: str, told: dict[str, Any]
    ) -> DiscreteDiffusionPipelineOutput:
        texts = images = None
        config = unwrapped(self.model).config
        if output_type == "text":
            given = (~canvas.infill).long().cumprod(1).sum(1).tolist()
            texts = texts_of(sequences, given, end_tokens(config, self.tokenizer), self.tokenizer)
        if output_type == "image":
            images = to_images(sequences, config.token_shape, self.scheduler.diffusion.process)
        return DiscreteDiffusionPipelineOutput(sequences, texts, images, **told)


# `DiffusionPipeline.from_pretrained` looks for the class that a folder names in diffusers alone.
diffusers.DiscreteDiffusionPipeline = DiscreteDiffusionPipeline

__all__ = ["DiscreteDiffusionPipeline", "DiscreteDiffusionPipelineOutput"]
