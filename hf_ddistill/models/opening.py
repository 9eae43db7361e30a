"""Models by their names: a folder or a repository of the Hub, whole or adapters on a base."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from transformers import AutoModelForMaskedLM, PreTrainedModel
from transformers.utils.peft_utils import find_adapter_config_file

#: Beside adapters: the configuration of their base in training, with its entry `discrete_diffusion`
#: (the folder of a base on the Hub has neither the process nor the student's number of steps).
BASE_CONFIG = "base_config.json"
_OF_THE_HUB = ("cache_dir", "force_download", "local_files_only", "token", "revision")


def open_model(name: str | os.PathLike, *args: Any, **kwargs: Any) -> PreTrainedModel:
    """The model of a folder or of the Hub; adapters are merged into the weights of their base.

    Args:
        name: a folder or a Hub id.
        *args, **kwargs: of `AutoModelForMaskedLM.from_pretrained`.

    Raises:
        ValueError: if the base of adapters is not found, or if they cannot be merged.
    """
    name = os.fspath(name)
    of_hub = {key: kwargs[key] for key in _OF_THE_HUB if kwargs.get(key) is not None}
    if find_adapter_config_file(name, **of_hub) is None:
        return AutoModelForMaskedLM.from_pretrained(name, *args, **kwargs)
    folder = name
    if not os.path.isdir(name):
        folder = snapshot_download(name, ignore_patterns=["checkpoint-*/*", "*.bin"], **of_hub)
    # A revision is that of the adapters; the base has its own.
    kwargs = {key: value for key, value in kwargs.items() if key != "revision"}
    # Lazy: most models are whole, and peft takes as long to import as all the rest.
    adapters = importlib.import_module("hf_ddistill.models.adapters")
    return adapters.merged(Path(folder), name, **kwargs)


class AutoDiffusionModel(AutoModelForMaskedLM):
    """`AutoModelForMaskedLM` for `transformers.pipeline`, which also opens adapters as they were
    trained: with the process and the number of steps that their base does not know."""

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike, *args: Any, **kwargs: Any
    ) -> PreTrainedModel:
        """See `open_model`."""
        name, revision = pretrained_model_name_or_path, kwargs.get("revision")
        if revision is not None and not os.path.isdir(name):
            # Of adapters a pipeline looks at their base first, and hands on the revision of that,
            # which is none of theirs.
            of_hub = {"token": kwargs.get("token")}
            here = _adapters_at(name, revision=revision, **of_hub)
            if not here and _adapters_at(name, **of_hub):
                kwargs.pop("revision")
        return open_model(name, *args, **kwargs)


def _adapters_at(name: str, **of_hub: Any) -> bool:
    """Whether a repository holds adapters; none at a revision that it does not have."""
    try:
        return find_adapter_config_file(name, **of_hub) is not None
    except OSError:
        return False


__all__ = ["BASE_CONFIG", "AutoDiffusionModel", "open_model"]
