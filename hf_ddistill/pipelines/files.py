"""The files of a pipeline, in a folder or on the Hub."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from torch import nn
from transformers import AutoTokenizer
from transformers.modeling_utils import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from hf_ddistill.models import load_checkpoint, unwrapped
from hf_ddistill.outputs.record import DRAFT, relative_files
from hf_ddistill.schedulers import DiscreteSchedulerBase

#: What of the arguments of `from_pretrained` speaks of the download alone.
HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "token", "revision")
#: What of them speaks of the model alone.
MODEL_ARGUMENTS = ("dtype", "torch_dtype", "variant", "device_map", "max_memory", "use_safetensors")
MODEL_ARGUMENTS += ("offload_folder", "offload_state_dict", "low_cpu_mem_usage")


def fetched(repo_id: str, arguments: Mapping[str, Any]) -> str:
    """The folder of a repository of the Hub, downloaded."""
    given = {key: arguments[key] for key in HUB_ARGUMENTS if arguments.get(key) is not None}
    # A trainer's repository may hold its checkpoints, each as large as the model.
    return snapshot_download(
        repo_id, ignore_patterns=["checkpoint-*/*", "training_args.bin"], **given
    )


def models_in(folder: str, index: str, arguments: dict[str, Any]) -> dict[str, PreTrainedModel]:
    """The models of a saved pipeline, "model" and, where it has one and none is given, "drafter",
    with all of their weights; nothing if the model's class is not imported.

    Args:
        folder: of the pipeline.
        index: the name of the file that lists its parts.
        arguments: of `from_pretrained`; those of the models are taken out.

    Raises:
        ValueError: if the list cannot be read, or as of `load_checkpoint`.
    """
    try:
        parts = json.loads(Path(folder, index).read_text())
        listed = {"model": parts["model"], "drafter": parts.get("drafter") or (None, None)}
        kinds = {part: _class_of(*names) for part, names in listed.items()}
    except (json.JSONDecodeError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{index} in {folder} names no model of a pipeline: {error!r}.") from error
    if kinds.get("model") is None:
        return {}
    given = {key: arguments.pop(key) for key in MODEL_ARGUMENTS if key in arguments}
    dtype = given.pop("torch_dtype", None)
    dtype = given.pop("dtype", dtype)
    found = {}
    for part, kind in kinds.items():
        if kind is None or (part == "drafter" and part in arguments):
            continue
        own = dtype.get(part, dtype.get("default")) if isinstance(dtype, dict) else dtype
        place = {"subfolder": part} if Path(folder, part).is_dir() else {}
        place |= {} if own is None else {"dtype": own}
        found[part] = load_checkpoint(kind, folder, **given, **place)
    return found


def _class_of(module: str | None, name: str | None) -> type | None:
    """A class that is named, if its module is imported."""
    return getattr(sys.modules.get(str(module)), str(name), None)


def scheduler_of(config: Mapping[str, Any]) -> DiscreteSchedulerBase:
    """The scheduler of a saved configuration.

    Raises:
        ValueError: if it is none of ours.
    """
    known = {kind.__name__: kind for kind in DiscreteSchedulerBase.__subclasses__()}
    name = config.get("_class_name")
    if name not in known:
        raise ValueError(f"No scheduler {name!r}; there are: {', '.join(sorted(known))}.")
    return known[name].from_config(dict(config))


def tokenizer_in(folder: str) -> PreTrainedTokenizerBase | None:
    """The tokenizer of a folder, where it has one."""
    if not os.path.isfile(os.path.join(folder, "tokenizer_config.json")):
        return None
    return AutoTokenizer.from_pretrained(folder)


def whole_model(model: nn.Module) -> PreTrainedModel:
    """What can be saved and opened again: without wrappers, and with its adapters merged into the
    weights of a copy.

    Raises:
        ValueError: for adapters that cannot be merged.
    """
    inner = unwrapped(model)
    layers = [name for name, part in inner.named_modules() if hasattr(part, "get_base_layer")]
    outer = unwrapped(model, keep_adapters=True)
    if outer is inner and not layers and not getattr(inner, "_hf_peft_config_loaded", False):
        return inner
    inner = copy.deepcopy(inner)
    parted = _part(inner)
    # The innermost first: one adapted layer may stand in another.
    for name in reversed(layers):
        layer = inner.get_submodule(name)
        try:
            layer.merge(safe_merge=True)
        except (AttributeError, NotImplementedError) as error:
            raise ValueError(
                f"The pipeline's model has adapters of the kind {type(layer).__name__} at {name}, "
                "which cannot be merged into its weights and so not be saved; LoRA and its kin can."
            ) from error
        inner.set_submodule(name, layer.get_base_layer())
    inner._hf_peft_config_loaded = False
    if parted:
        inner.config.tie_word_embeddings = False
    warnings.warn(
        "The adapters of the pipeline's model are saved merged into its weights.", stacklevel=4
    )
    return inner


def _part(model: PreTrainedModel) -> bool:
    """Give the embeddings a weight of their own, where adapters stand on one of two that are tied:
    merged into one, they would change the other; whether that was so."""
    layers = [model.get_input_embeddings(), model.get_output_embeddings()]
    bases = [each.get_base_layer() if hasattr(each, "get_base_layer") else each for each in layers]
    if None in layers or bases == layers or bases[0].weight is not bases[1].weight:
        return False
    bases[0].weight = nn.Parameter(bases[0].weight.detach().clone())
    return True


@contextlib.contextmanager
def flattened(folder: str | os.PathLike) -> Iterator[Path]:
    """A draft whose files are moved into `folder` when the block ends, those of its subfolders
    `model` and `tokenizer` to the root; folders of these names that are there are left alone."""
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=DRAFT, dir=root) as draft:
        yield Path(draft)
        for path in relative_files(Path(draft)):
            first, _, rest = path.partition("/")
            target = root / (rest if first in ("model", "tokenizer") and rest else path)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(Path(draft) / path, target)
