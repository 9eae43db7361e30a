"""How a pipeline is made of a model, opened and saved."""

from __future__ import annotations

import os
from typing import Any, Self

from diffusers import DiffusionPipeline
from transformers.modeling_utils import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from hf_ddistill.models import as_denoiser, check_name, sampler_of, unwrapped
from hf_ddistill.models.opening import MODEL_FILES, open_model, scheduler_beside
from hf_ddistill.pipelines.drafting import drafting, opened
from hf_ddistill.pipelines.files import (
    HUB_ARGUMENTS,
    fetched,
    flattened,
    models_in,
    scheduler_of,
    tokenizer_in,
    whole_model,
)
from hf_ddistill.schedulers import DiscreteSchedulerBase, scheduler_for


class SavedPipeline(DiffusionPipeline):
    """A pipeline of `model`, `scheduler`, `tokenizer` and perhaps a `drafter`, whose folder both
    libraries open."""

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """As of diffusers, without its warning that float16 cannot run on a CPU: here it does."""
        return super().to(*args, **{"silence_dtype_warnings": True} | kwargs)

    @classmethod
    def from_model(
        cls,
        model: PreTrainedModel,
        scheduler_class: type[DiscreteSchedulerBase] | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        drafter: PreTrainedModel | None = None,
        **settings: Any,
    ) -> Self:
        """A pipeline whose scheduler follows `model.config.discrete_diffusion`.

        Args:
            model: any that `as_denoiser` takes.
            scheduler_class: of the scheduler; that of the model's own sampler, which its
                configuration names, or else of ancestral steps; with a drafter `speculative`.
            tokenizer: for text.
            drafter: another model, that drafts for this one.
            **settings: more of the scheduler's, such as `temperature`.
        """
        diffusion = as_denoiser(model, tokenizer=tokenizer).diffusion
        entry = unwrapped(model).config.discrete_diffusion
        if "num_inference_steps" in entry:  # a student's own number of steps
            settings = {"num_inference_steps": entry["num_inference_steps"], **settings}
        own_sampler = scheduler_class is None
        if scheduler_class is None:
            scheduler_class, own = scheduler_for(sampler_of(model))
            settings = {**own, **settings}
        scheduler = scheduler_class(**diffusion.to_config(), **settings)
        if own_sampler and drafter is not None:
            scheduler = drafting(scheduler)
        return cls(model, scheduler, tokenizer, drafter)

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
        `trainer.push_to_hub`, the scheduler follows from the model's configuration. A `drafter` is
        a model, or the name of one, with which the sampler is `speculative` unless a `scheduler`
        is given. The other arguments are those of `DiffusionPipeline.from_pretrained`.
        """
        if kwargs.get("drafter") is not None:
            kwargs["drafter"] = opened(kwargs["drafter"])
            pipe = cls._opened(pretrained_model_name_or_path, **kwargs)
            if kwargs.get("scheduler") is None:
                pipe.register_modules(scheduler=drafting(pipe.scheduler))
            return pipe
        return cls._opened(pretrained_model_name_or_path, **kwargs)

    @classmethod
    def _opened(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> Self:
        folder = os.fspath(pretrained_model_name_or_path)
        check_name(folder, files=(cls.config_name, *MODEL_FILES), **kwargs)
        if not os.path.isdir(folder):
            folder = cls.download(folder, **kwargs)
            kwargs = {key: value for key, value in kwargs.items() if key not in HUB_ARGUMENTS}
        if os.path.isfile(os.path.join(folder, cls.config_name)):
            if kwargs.get("model") is None and kwargs.get("quantization_config") is None:
                kwargs |= models_in(folder, cls.config_name, kwargs)
            return super().from_pretrained(folder, **kwargs)
        scheduler, tokenizer = kwargs.pop("scheduler", None), kwargs.pop("tokenizer", None)
        drafter = kwargs.pop("drafter", None)
        model = open_model(folder, **kwargs)
        tokenizer = tokenizer_in(folder) if tokenizer is None else tokenizer
        saved = scheduler_beside(folder)
        if scheduler is None and saved is not None:
            scheduler = scheduler_of(saved)
        if scheduler is not None:
            return cls(model, scheduler, tokenizer, drafter)
        return cls.from_model(model, tokenizer=tokenizer, drafter=drafter)

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        *args: Any,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> None:
        """Save so that both `DiscreteDiffusionPipeline.from_pretrained` and
        `transformers.pipeline("discrete-diffusion", model=...)` open the same folder.

        Model and tokenizer lie at its root: diffusers looks there where it finds no subfolder; a
        drafter is in the subfolder `drafter`, which transformers' pipeline does not open. A model
        with adapters is saved with them merged into its weights, which is said in a warning; in
        memory it stays as it is. Arguments are those of `DiffusionPipeline.save_pretrained`;
        what is saved as a `variant` is opened by naming it.

        Raises:
            ValueError: for adapters that cannot be merged.
        """
        model = whole_model(self.model)
        drafter = None if self.drafter is None else whole_model(self.drafter)
        if model is not self.model or drafter is not self.drafter:
            whole = type(self)(model, self.scheduler, self.tokenizer, drafter)
            whole.save_pretrained(save_directory, *args, push_to_hub=push_to_hub, **kwargs)
            return
        repo = {key: kwargs.pop(key) for key in ("repo_id", "private", "token") if key in kwargs}
        with flattened(save_directory) as draft:
            super().save_pretrained(draft, *args, **kwargs)
        if push_to_hub:
            name = os.path.basename(os.path.abspath(save_directory))
            self.push_to_hub(repo.pop("repo_id", name), **repo)
