"""How a pipeline is made of a model, opened and saved."""

from __future__ import annotations

import os
from typing import Any, Self

from diffusers import DiffusionPipeline
from transformers.modeling_utils import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from hf_ddistill.models import as_denoiser, check_name, sampler_of, unwrapped
from hf_ddistill.models.opening import MODEL_FILES, open_model, scheduler_beside
from hf_ddistill.pipelines.files import (
    HUB_ARGUMENTS,
    fetched,
    flattened,
    model_in,
    scheduler_of,
    tokenizer_in,
    whole_model,
)
from hf_ddistill.schedulers import DiscreteSchedulerBase, scheduler_for


class SavedPipeline(DiffusionPipeline):
    """A pipeline of `model`, `scheduler` and `tokenizer`, whose folder both libraries open."""

    @classmethod
    def from_model(
        cls,
        model: PreTrainedModel,
        scheduler_class: type[DiscreteSchedulerBase] | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        **settings: Any,
    ) -> Self:
        """A pipeline whose scheduler follows `model.config.discrete_diffusion`.

        Args:
            model: any that `as_denoiser` takes.
            scheduler_class: of the scheduler; that of the model's own sampler, which its
                configuration names, or else of ancestral steps.
            tokenizer: for text.
            **settings: more of the scheduler's, such as `temperature`.
        """
        diffusion = as_denoiser(model, tokenizer=tokenizer).diffusion
        entry = unwrapped(model).config.discrete_diffusion
        if "num_inference_steps" in entry:  # a student's own number of steps
            settings = {"num_inference_steps": entry["num_inference_steps"], **settings}
        if scheduler_class is None:
            scheduler_class, own = scheduler_for(sampler_of(model))
            settings = {**own, **settings}
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
    ) -> Self:
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
            if kwargs.get("model") is None and kwargs.get("quantization_config") is None:
                model = model_in(folder, cls.config_name, kwargs)
                kwargs |= {} if model is None else {"model": model}
            return super().from_pretrained(folder, **kwargs)
        scheduler, tokenizer = kwargs.pop("scheduler", None), kwargs.pop("tokenizer", None)
        model = open_model(folder, **kwargs)
        tokenizer = tokenizer_in(folder) if tokenizer is None else tokenizer
        saved = scheduler_beside(folder)
        if scheduler is None and saved is not None:
            scheduler = scheduler_of(saved)
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

        Model and tokenizer lie at its root: diffusers looks there where it finds no subfolder. A
        model with adapters is saved with them merged into its weights, which is said in a warning;
        in memory it stays as it is. Arguments are those of `DiffusionPipeline.save_pretrained`;
        what is saved as a `variant` is opened by naming it.

        Raises:
            ValueError: for adapters that cannot be merged.
        """
        model = whole_model(self.model)
        if model is not self.model:
            whole = type(self)(model, self.scheduler, self.tokenizer)
            whole.save_pretrained(save_directory, *args, push_to_hub=push_to_hub, **kwargs)
            return
        repo = {key: kwargs.pop(key) for key in ("repo_id", "private", "token") if key in kwargs}
        with flattened(save_directory) as draft:
            super().save_pretrained(draft, *args, **kwargs)
        if push_to_hub:
            name = os.path.basename(os.path.abspath(save_directory))
            self.push_to_hub(repo.pop("repo_id", name), **repo)
