"""Adapters (LoRA and its kin) that stand in a folder, as a whole model."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

from peft import PeftConfig, PeftModel
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    GenerationConfig,
    PreTrainedModel,
)

from hf_ddistill.models.loading import check_finite, complete, load_config, load_masked_lm
from hf_ddistill.models.noise_input import NOISE_INPUT, config_without_noise, with_noise_input
from hf_ddistill.models.opening import BASE_CONFIG


def merged(folder: Path, name: str, **kwargs: Any) -> PreTrainedModel:
    """The base with the adapters merged into its weights.

    Args:
        folder: of the adapters; their base stands in it, or is named by `adapter_config.json`.
        name: what the user called it, for errors.
        **kwargs: of `from_pretrained` of the base.

    Raises:
        ValueError: if there is no base, or if the adapters cannot be merged.
    """
    settings = PeftConfig.from_pretrained(str(folder))
    base = _base(folder, name, settings, **kwargs)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Found missing adapter keys")
        try:
            model = PeftModel.from_pretrained(base, str(folder))
        except UserWarning as error:
            raise ValueError(f"The adapters of {name} are not whole: {error}") from error
        except SafetensorError as error:
            raise ValueError(f"The adapters of {name} cannot be read: {error}") from error
    check_finite(model, name)
    if not hasattr(model.base_model, "merge_and_unload"):
        raise ValueError(
            f"{name} has adapters of the kind {settings.peft_type}, which cannot be merged into "
            "their base; LoRA and its kin can."
        )
    with warnings.catch_warnings():
        # It says that it parts them, which is right: see below.
        warnings.filterwarnings("ignore", "Input and output embeddings are no longer tied")
        whole = model.merge_and_unload()
    embedded, head = whole.get_input_embeddings(), whole.get_output_embeddings()
    if head is not None and head.weight is not embedded.weight:
        # Adapters on one of two tied matrices part them; a model that is saved tells its loader.
        whole.config.get_text_config().tie_word_embeddings = False
        whole.config.tie_word_embeddings = False
    # Neither the base's name nor that of the adapters is that of a folder with these weights.
    whole.config._name_or_path = ""
    return whole


def _base(folder: Path, name: str, settings: PeftConfig, **kwargs: Any) -> PreTrainedModel:
    kwargs.pop("config", None)
    if (folder / BASE_CONFIG).is_file():
        kwargs["config"] = AutoConfig.from_pretrained(str(folder / BASE_CONFIG))
    if (folder / "config.json").is_file():
        return _beside(folder, **kwargs)
    base = settings.base_model_name_or_path
    if not base:
        raise ValueError(
            f"{name} holds adapters without their base: neither stands a config.json beside them, "
            "nor does adapter_config.json name one in base_model_name_or_path."
        )
    try:
        wanted = kwargs.get("config")
        if wanted is None or not _brings_noise(settings, base):
            return load_masked_lm(base, revision=settings.revision, **kwargs)
        kwargs["config"] = config_without_noise(wanted)
        model = load_masked_lm(base, revision=settings.revision, **kwargs)
        model = with_noise_input(model, wanted.noise_dim)
        for name in ("discrete_diffusion", "held_tokens", "mask_token_id"):
            setattr(model.config, name, getattr(wanted, name, None))
        return model
    except ValueError as error:
        raise ValueError(f"{name} holds adapters of the base {base!r}. {error}") from error


def _brings_noise(settings: PeftConfig, base: str) -> bool:
    """Whether adapters have a noise input with them that their base has not."""
    own = getattr(load_config(base, revision=settings.revision), "noise_dim", 0)
    return NOISE_INPUT in (getattr(settings, "modules_to_save", None) or ()) and not own


def _beside(folder: Path, **kwargs: Any) -> PreTrainedModel:
    """The base in the folder of the adapters, which `from_pretrained` of the folder would enter
    into its layers, to stay there."""
    config = kwargs.pop("config", None) or AutoConfig.from_pretrained(str(folder))
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        raise ValueError(
            f"{folder} has the config.json of the base of its adapters, but no weights."
        )
    state = {}
    for file in files:
        state |= load_file(file)
    kind = AutoModelForMaskedLM._model_mapping[type(config)]
    dtype = kwargs.pop("dtype", None) or config.dtype
    # The rest is of the Hub.
    kwargs = {key: kwargs[key] for key in ("device_map", "attn_implementation") if key in kwargs}
    weights = {"config": config, "state_dict": state, "dtype": dtype}
    model = complete(kind, None, str(folder), **weights, **kwargs)
    if model.can_generate() and (folder / "generation_config.json").is_file():
        kind_of_settings = getattr(kind, "generation_config_class", None) or GenerationConfig
        model.generation_config = kind_of_settings.from_pretrained(str(folder))
    return model


def name_base(folder: Path, name: str | None, revision: str | None = None) -> None:
    """Enter in `adapter_config.json` where the base is; None for one that stands beside it."""
    file = folder / "adapter_config.json"
    settings: dict[str, Any] = json.loads(file.read_text())
    settings |= {"base_model_name_or_path": name, "revision": revision}
    file.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")


def bring_base(folder: Path, repo_id: str) -> None:
    """Before a folder of adapters is pushed: a base that others would not find comes along, and the
    repository is named as where it is. Nothing is done where there are no adapters.

    Raises:
        ValueError: if the base is a folder that is not there any more.
    """
    if not (folder / "adapter_config.json").is_file():
        return
    beside = (folder / "config.json").is_file()
    base = PeftConfig.from_pretrained(str(folder)).base_model_name_or_path
    if not beside and base and not os.path.isabs(base):
        return
    if not beside:
        settings = PeftConfig.from_pretrained(str(folder))
        _base(folder, str(folder), settings).save_pretrained(folder)
    name_base(folder, repo_id)
