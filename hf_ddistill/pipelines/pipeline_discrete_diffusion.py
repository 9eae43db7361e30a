"""The pipeline for diffusers: a model, a scheduler and, for text, a tokenizer."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from transformers.modeling_utils import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from hf_ddistill.models import as_denoiser, check_name, unwrapped
from hf_ddistill.models.opening import MODEL_FILES, open_model
from hf_ddistill.pipelines.block_generation import decoded, decodes_blocks
from hf_ddistill.pipelines.files import HUB_ARGUMENTS, fetched, flatten, tokenizer_in
from hf_ddistill.pipelines.inputs import (
    Canvas,
    check_generator,
    label_tensor,
    num_rows,
    sequence_length,
)
from hf_ddistill.pipelines.network import denoiser_on, evaluating
from hf_ddistill.pipelines.pipeline_output import DiscreteDiffusionPipelineOutput, to_images
from hf_ddistill.pipelines.prompts import beginnings
from hf_ddistill.schedulers import AncestralScheduler, DiscreteSchedulerBase
from hf_ddistill.shapes import Generators, Tokens
from hf_ddistill.teachers import Guided


class DiscreteDiffusionPipeline(DiffusionPipeline):
    """
    Samples text, images or other tokens from a discrete diffusion model.

    What the model predicts, and of which process, stands in its `config.discrete_diffusion`.

    Args:
        model (`PreTrainedModel`): any that `as_denoiser` takes.
        scheduler (`DiscreteSchedulerBase`): of the model's process.
        tokenizer (`PreTrainedTokenizerBase`, *optional*): needed for text alone.

    Example:

    ```python
    pipe = DiscreteDiffusionPipeline.from_pretrained("me/student")
    pipe.scheduler = CTMCEulerScheduler.from_config(pipe.scheduler.config, temperature=0.9)
    texts = pipe("Once upon a time", batch_size=4, num_inference_steps=8).texts
    ```
    """

    model_cpu_offload_seq = "model"
    _optional_components = ["tokenizer"]
    _callback_tensor_inputs = ["sequences", "pred_original_sample", "sampled_probs"]

    def __init__(
        self,
        model: PreTrainedModel,
        scheduler: DiscreteSchedulerBase,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(model=model, scheduler=scheduler, tokenizer=tokenizer)

    @classmethod
    def from_model(
        cls,
        model: PreTrainedModel,
        scheduler_class: type[DiscreteSchedulerBase] = AncestralScheduler,
        tokenizer: PreTrainedTokenizerBase | None = None,
        **settings: Any,
    ) -> DiscreteDiffusionPipeline:
        """A pipeline whose scheduler follows `model.config.discrete_diffusion`.

        Args:
            model: any that `as_denoiser` takes.
            scheduler_class: of the scheduler.
            tokenizer: for text.
            **settings: more of the scheduler's, such as `temperature`.
        """
        diffusion = as_denoiser(model, tokenizer=tokenizer).diffusion
        entry = unwrapped(model).config.discrete_diffusion
        if "num_inference_steps" in entry:  # a student's own number of steps
            settings = {"num_inference_steps": entry["num_inference_steps"], **settings}
        return cls(model, scheduler_class(**diffusion.to_config(), **settings), tokenizer)

    @classmethod
    def download(cls, pretrained_model_name: str, **kwargs: Any) -> str:
        """The folder of a repository of the Hub, downloaded.

        The method of diffusers refuses repositories whose components come from a third library.
        """
        return fetched(pretrained_model_name, kwargs)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any
    ) -> DiscreteDiffusionPipeline:
        """Load a saved pipeline, or the folder or repository of a model or of adapters as one.

        Where there is no `model_index.json`, that is after `model.save_pretrained` or
        `trainer.push_to_hub`, the scheduler follows from the model's configuration. The other
        arguments are those of `DiffusionPipeline.from_pretrained`.
        """
        folder = os.fspath(pretrained_model_name_or_path)
        check_name(folder, files=(cls.config_name, *MODEL_FILES), **kwargs)
        if not os.path.isdir(folder):
            folder = cls.download(folder, **kwargs)
            kwargs = {key: value for key, value in kwargs.items() if key not in HUB_ARGUMENTS}
        if os.path.isfile(os.path.join(folder, cls.config_name)):
            return super().from_pretrained(folder, **kwargs)
        scheduler, tokenizer = kwargs.pop("scheduler", None), kwargs.pop("tokenizer", None)
        model = open_model(folder, **kwargs)
        tokenizer = tokenizer_in(folder) if tokenizer is None else tokenizer
        if scheduler is not None:
            return cls(model, scheduler, tokenizer)
        return cls.from_model(model, tokenizer=tokenizer)

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        *args: Any,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> None:
        """Save so that both `DiscreteDiffusionPipeline.from_pretrained` and
        `transformers.pipeline("discrete-diffusion", model=...)` open the same folder.

        Model and tokenizer lie at its root: diffusers looks there where it finds no subfolder.
        Arguments are those of `DiffusionPipeline.save_pretrained`.
        """
        repo = {key: kwargs.pop(key) for key in ("repo_id", "private", "token") if key in kwargs}
        super().save_pretrained(save_directory, *args, **kwargs)
        flatten(save_directory)
        if push_to_hub:
            name = os.path.basename(os.path.abspath(save_directory))
            self.push_to_hub(repo.pop("repo_id", name), **repo)

    @property
    def num_timesteps(self) -> int:
        """Steps of the last call."""
        return self._num_timesteps

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
        guidance_scale: float = 0.0,
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
            num_inference_steps (`int`, *optional*): the scheduler's own number if not given.
            class_labels (`int`, list or `torch.LongTensor` of shape `(n,)`, *optional*):
                -1 is the null class.
            guidance_scale (`float`): w of classifier-free guidance, see `Guided`; it costs a second
                call of the model at each step, and 0 turns it off.
            generator (`torch.Generator` or a list of them, *optional*):
                with a list, one for each sample, no sample depends on its batch.
            output_type (`str`, *optional*): `"text"`, `"tokens"` or `"image"`; text if there is a
                tokenizer, else tokens. Tokens are always in the output.
            return_dict (`bool`): whether to return a `DiscreteDiffusionPipelineOutput` instead of
                the tuple of its entries that are not None.
            callback_on_step_end (`Callable`, *optional*): called with `(pipeline, step, timestep,
                tensors)`; `sequences` in the dictionary that it returns replaces the sample.
            callback_on_step_end_tensor_inputs (`Sequence[str]`): the tensors that it is given.
            **generation: settings of `BlockDiffusionLM.generate`, such as `max_new_tokens`.
        """
        if isinstance(callback_on_step_end, PipelineCallback | MultiPipelineCallbacks):
            callback_on_step_end_tensor_inputs = callback_on_step_end.tensor_inputs
        if output_type is None:
            output_type = "tokens" if self.tokenizer is None else "text"
        self.check_inputs(prompt, input_ids, infill, output_type)
        self._check_callback(callback_on_step_end_tensor_inputs)
        others = {"infill": infill, "length": length, "num_inference_steps": num_inference_steps}
        others |= {"class_labels": class_labels, "guidance_scale": guidance_scale or None}
        if decodes_blocks(self.model, generation, others):
            given = beginnings(self.tokenizer, prompt, input_ids, whole=True)
            callback = (callback_on_step_end, callback_on_step_end_tensor_inputs)
            generation |= {"generator": generator, "callback": callback}
            output = decoded(self, given, batch_size, output_type == "text", **generation)
            return output if return_dict else output.to_tuple()
        config, device = unwrapped(self.model).config, self._execution_device
        denoiser = denoiser_on(self.model, self.scheduler.diffusion, self.tokenizer)
        network, diffusion = denoiser.network, denoiser.diffusion
        labels = label_tensor(config, class_labels)
        if guidance_scale:
            if labels is None:
                raise ValueError(f"guidance_scale={guidance_scale} needs `class_labels`.")
            denoiser = Guided(denoiser, guidance_scale)
        given = beginnings(self.tokenizer, prompt, input_ids)
        rows = num_rows(batch_size, len(given), 1 if labels is None else len(labels))
        check_generator(generator, rows)
        shape = (rows, sequence_length(config, length))
        canvas = Canvas.of(given, infill, shape, diffusion).to(device)
        if num_inference_steps is None:
            num_inference_steps = self.scheduler.config.num_inference_steps
        self.scheduler.set_timesteps(num_inference_steps, device)
        self._num_timesteps = num_inference_steps
        condition = {} if labels is None else {"class_labels": labels.expand(rows).to(device)}
        sequences = canvas.hold(diffusion.prior(shape, generator, device))
        with evaluating(self.model), self.progress_bar(total=num_inference_steps) as progress:
            for step, timestep in enumerate(self.scheduler.timesteps):
                noise = denoiser.fresh_noise(sequences, generator)
                log_p = denoiser(sequences, timestep, **condition, **noise).log_conditional
                stepped = self.scheduler.step(log_p, timestep, sequences, generator=generator)
                sequences = canvas.hold(stepped.prev_sample)
                if callback_on_step_end is not None:
                    tensors = {**stepped, "sequences": sequences}
                    tensors = {name: tensors[name] for name in callback_on_step_end_tensor_inputs}
                    returned = callback_on_step_end(self, step, timestep, tensors)
                    sequences = returned.pop("sequences", sequences)
                progress.update()
        self.maybe_free_model_hooks()
        output = self._output(sequences, output_type, network.calls)
        return output if return_dict else output.to_tuple()

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

    def _check_callback(self, names: Sequence[str]) -> None:
        unknown = [name for name in names if name not in self._callback_tensor_inputs]
        if unknown:
            raise ValueError(
                "`callback_on_step_end_tensor_inputs` must be among "
                f"{self._callback_tensor_inputs}, got {unknown}."
            )

    def _output(
        self, sequences: Tokens, output_type: str, calls: int
    ) -> DiscreteDiffusionPipelineOutput:
        texts = images = None
        if output_type == "text":
            texts = self.tokenizer.batch_decode(sequences, skip_special_tokens=True)
        if output_type == "image":
            shape = unwrapped(self.model).config.token_shape
            images = to_images(sequences, shape, self.scheduler.diffusion.process)
        return DiscreteDiffusionPipelineOutput(sequences, texts, images, calls)


__all__ = ["DiscreteDiffusionPipeline", "DiscreteDiffusionPipelineOutput"]
