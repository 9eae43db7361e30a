"""Models by their names: a folder or a repository of the Hub, whole or adapters on a base."""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from transformers import AutoModelForMaskedLM, PreTrainedModel
from transformers.utils import cached_file
from transformers.utils.peft_utils import find_adapter_config_file

from hf_ddistill.models.causal_kind import is_causal_config
from hf_ddistill.models.loading import check_name, load_config, load_masked_lm

#: Beside adapters: the configuration of their base in training, with its entry `discrete_diffusion`
#: (the folder of a base on the Hub has neither the process nor the student's number of steps).
BASE_CONFIG = "base_config.json"
#: One of these is in the folder of a model, whole or adapters on a base that may be elsewhere.
MODEL_FILES = ("config.json", "adapter_config.json")
#: Where diffusers saves the scheduler of a pipeline.
SCHEDULER_FILE = "scheduler/scheduler_config.json"
_OF_THE_HUB = ("cache_dir", "force_download", "local_files_only", "token", "revision")


def is_causal_name(name: str) -> bool:
    """Whether a folder or Hub id is that of a causal language model of transformers; adapters are
    opened as what they were trained as here, which is none.

    Raises:
        ValueError: if there is no model, or one of which nothing says what it is.
    """
    check_name(name, files=MODEL_FILES)
    if find_adapter_config_file(name) is not None:
        return False
    return is_causal_config(load_config(name), name)


def open_model(name: str | os.PathLike, **kwargs: Any) -> PreTrainedModel:
    """The model of a folder or of the Hub; adapters are merged into the weights of their base.

    Args:
        name: a folder or a Hub id.
        **kwargs: of `AutoModelForMaskedLM.from_pretrained`.

    Raises:
        ValueError: if there is no such model, if its weights are not whole (see `load_masked_lm`),
            if the base of adapters is not found, or if they cannot be merged.
    """
    name = os.fspath(name)
    check_name(name, files=MODEL_FILES, **kwargs)
    of_hub = {key: kwargs[key] for key in _OF_THE_HUB if kwargs.get(key) is not None}
    if find_adapter_config_file(name, **of_hub) is None:
        return load_masked_lm(name, **kwargs)
    folder = name
    if not os.path.isdir(name):
        folder = snapshot_download(name, ignore_patterns=["checkpoint-*/*", "*.bin"], **of_hub)
    # A revision is that of the adapters; the base has its own.
    kwargs = {key: value for key, value in kwargs.items() if key != "revision"}
    # Lazy: most models are whole, and peft takes as long to import as all the rest.
    adapters = importlib.import_module("hf_ddistill.models.adapters")
    return adapters.merged(Path(folder), name, **kwargs)


def scheduler_beside(name: str | os.PathLike, **kwargs: Any) -> dict[str, Any] | None:
    """The configuration of the scheduler that a pipeline was saved with, where there is one.

    Args:
        name: a folder or a Hub id.
        **kwargs: of `from_pretrained`; those that speak of the Hub are looked at.
    """
    of_hub = {key: kwargs[key] for key in _OF_THE_HUB if kwargs.get(key) is not None}
    quiet = {f"_raise_exceptions_for_{what}": False for what in ("missing_entries", "gated_repo")}
    quiet["_raise_exceptions_for_connection_errors"] = False
    file = cached_file(os.fspath(name), SCHEDULER_FILE, **of_hub, **quiet)
    return None if file is None else json.loads(Path(file).read_text())


class AutoDiffusionModel(AutoModelForMaskedLM):
    """`AutoModelForMaskedLM` for `transformers.pipeline`, which also opens adapters as they were
    trained: with the process and the number of steps that their base does not know.

    The model has an attribute `saved_scheduler`: see `scheduler_beside`."""

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike, *args: Any, **kwargs: Any
    ) -> PreTrainedModel:
        """See `open_model`."""
        config = kwargs.pop("config", None)
        more = {} if config is None else {"config": config}
        revision = kwargs.get("revision")
        if revision is not None and not os.path.isdir(pretrained_model_name_or_path):
            # Of adapters a pipeline looks at their base first, and hands on the revision of that,
            # which is none of theirs.
            name, of_hub = pretrained_model_name_or_path, {"token": kwargs.get("token")}
            here = _adapters_at(name, revision=revision, **of_hub)
            if not here and _adapters_at(name, **of_hub):
                kwargs.pop("revision")
        try:
            model = open_model(pretrained_model_name_or_path, **more, **kwargs)
            model.saved_scheduler = scheduler_beside(pretrained_model_name_or_path, **kwargs)
            return model
        except ValueError as error:
            # After a ValueError, `transformers.pipeline` goes on to the class that the folder
            # names, which draws missing weights at random.
            raise LookupError(str(error)) from error


def _adapters_at(name: str, **of_hub: Any) -> bool:
    """Whether a repository holds adapters; none at a revision that it does not have."""
    try:
        return find_adapter_config_file(name, **of_hub) is not None
    except OSError:
        return False


__all__ = ["BASE_CONFIG", "MODEL_FILES", "AutoDiffusionModel", "open_model", "scheduler_beside"]
