"""Models from folders and from the Hub: all of their weights, or a refusal that names what is
missing. (transformers itself draws at random what a checkpoint lacks.)"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.errors import (
    HFValidationError,
    HTTPError,
    RepositoryNotFoundError,
    StrictDataclassError,
)
from safetensors import SafetensorError
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoConfig,
    AutoModelForMaskedLM,
)
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_utils import PreTrainedModel

#: Arguments of `from_pretrained` that say where a configuration lies.
_OF_CONFIG = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")
_OF_CONFIG += ("trust_remote_code",)
#: What damaged files of weights raise: cut safetensors, a pickle that is none, a cut archive.
_UNREADABLE = (SafetensorError, pickle.UnpicklingError, EOFError, zipfile.BadZipFile)
#: The dtypes in which a weight can be NaN or infinite, and torch can tell.
_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_SECONDS = 10.0  # for one question to the Hub


def as_name(given: Any) -> Any:  # noqa: ANN401 (whatever may stand where a name may)
    """A path as the name that it is, those in a list too; anything else as it is."""
    if isinstance(given, list | tuple):
        return [as_name(each) for each in given]
    return os.fspath(given) if isinstance(given, os.PathLike) else given


def load_masked_lm(name: str | os.PathLike, **kwargs: Any) -> PreTrainedModel:
    """A masked language model or a model of ours, with the weights that its folder or repository
    holds.

    Args:
        name: a folder or a Hub id.
        **kwargs: of `AutoModelForMaskedLM.from_pretrained`, such as `dtype`.

    Raises:
        ValueError: if there is no such model or it is of another kind; if weights are missing, of
            another size, NaN, infinite or cannot be read. In one sentence, with names.
    """
    config = kwargs.get("config")
    if config is None:
        config = load_config(name, **kwargs)
    remote = "AutoModelForMaskedLM" in (getattr(config, "auto_map", None) or {})
    if type(config) not in MODEL_FOR_MASKED_LM_MAPPING and not remote:
        kind = f"{name} is no masked language model but a {config.model_type} model"
        if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING:
            raise ValueError(
                f"{kind}, a causal one; `hf-ddistill convert` (to_block_diffusion in Python) makes "
                "a block-diffusion model of it."
            )
        raise ValueError(f"{kind}; models with a masked-LM head, DDiT and block diffusion are.")
    return load_checkpoint(AutoModelForMaskedLM, name, **kwargs)


def load_config(name: str | os.PathLike, **kwargs: Any) -> PreTrainedConfig:
    """The configuration of a model in a folder or on the Hub.

    Args:
        name: a folder or a Hub id.
        **kwargs: of `from_pretrained`; those that do not say where it lies are left out.

    Raises:
        ValueError: if there is none or it cannot be read, in one sentence.
    """
    check_name(name, **kwargs)
    given = {key: kwargs[key] for key in _OF_CONFIG if kwargs.get(key) is not None}
    # Unless told, the library would ask at the terminal whether to run what the folder brings.
    given.setdefault("trust_remote_code", False)
    with _in_one_sentence(name):
        try:
            return AutoConfig.from_pretrained(name, **given)
        except (AttributeError, IndexError, StrictDataclassError, TypeError, ValueError) as error:
            # Such as a dtype that there is not, or an `auto_map` that is none.
            said = " ".join(str(error).split("\n\n")[0].split())
            raise ValueError(f"The config.json of {name} cannot be read: {said}") from error


def load_checkpoint(cls: type, name: str | os.PathLike, **kwargs: Any) -> PreTrainedModel:
    """`cls.from_pretrained(name, **kwargs)`, refused unless every weight comes from the checkpoint
    and is a number.

    Tied weights, and those that the model's class says are made at load, may be missing. Weights
    for which the model has no place are said in a warning.

    Args:
        cls: a class of models or an Auto class of transformers.
        name: a folder or a Hub id.
        **kwargs: of `from_pretrained`. With `ignore_mismatched_sizes=True`, weights of another size
            are new ones, as there.

    Raises:
        ValueError: see `load_masked_lm`.
    """
    check_name(name, **kwargs)
    return complete(cls, name, str(name), **kwargs)


def complete(
    cls: type, source: str | os.PathLike | None, name: str, *, strict: bool = False, **kwargs: Any
) -> PreTrainedModel:
    """`load_checkpoint` for weights that need no file of their own (`state_dict`).

    Args:
        cls: see there.
        source: what its `from_pretrained` takes.
        name: what the sentences call it.
        strict: whether weights that the model has no place for are an error.
        **kwargs: of `from_pretrained`.
    """
    resize = kwargs.pop("ignore_mismatched_sizes", False)
    with _in_one_sentence(name), _without_table():
        model, info = cls.from_pretrained(
            source, output_loading_info=True, ignore_mismatched_sizes=True, **kwargs
        )
    total = len(model.state_dict())
    if info["missing_keys"]:
        raise ValueError(
            f"The weights of {name} lack {len(info['missing_keys'])} of the {total} tensors of "
            f"{type(model).__name__}, which would be random: {_listed(info['missing_keys'])}."
        )
    if info["mismatched_keys"] and not resize:
        sizes = [
            f"{key} {tuple(is_)} for {tuple(due)}" for key, is_, due in info["mismatched_keys"]
        ]
        raise ValueError(
            f"The weights of {name} are not of the sizes that its config.json gives: "
            f"{_listed(sizes)}."
        )
    check_finite(model, name)
    if info["unexpected_keys"]:
        left = info["unexpected_keys"]
        said = f"{type(model).__name__} has no place for {len(left)} tensors of {name}"
        if strict:
            raise ValueError(f"{said}: {_listed(left)}.")
        warnings.warn(f"{said}, which are left out: {_listed(left)}.", stacklevel=2)
    return model


def check_finite(model: torch.nn.Module, name: str) -> None:
    """Raise, with their names, if weights of a model are NaN or infinite.

    Args:
        model: any.
        name: what the sentence calls it.
    """
    numbers = {}
    for key, weight in model.named_parameters():
        # A shard of one, where it is spread over machines.
        weight = weight.to_local() if hasattr(weight, "to_local") else weight
        if weight.dtype in _FLOATS and weight.numel() and not weight.is_meta:
            # Both ends are NaN where one number is, and no copy of the weight is made for them.
            numbers[key] = torch.stack(weight.detach().aminmax()).isfinite().all()
    if not numbers:
        return
    device = next(iter(numbers.values())).device
    good = torch.stack([each.to(device) for each in numbers.values()])
    if not bool(good.all()):  # the one wait for the device
        bad = [key for key, fine in zip(numbers, good.tolist(), strict=True) if not fine]
        raise ValueError(f"Weights of {name} are NaN or infinite: {_listed(bad)}.")


def check_name(
    name: str | os.PathLike,
    *,
    files: Sequence[str] = ("config.json",),
    **kwargs: Any,
) -> None:
    """Raise, at once, if a name is neither a folder with a model nor a repository of the Hub.

    The libraries themselves ask the Hub for a misspelt folder again and again.

    Args:
        name: a folder or a Hub id.
        files: any of them makes a folder a model.
        **kwargs: of `from_pretrained`; `subfolder`, `cache_dir`, `revision`, `token` and
            `local_files_only` are looked at.
    """
    path, repo_id, subfolder = Path(name), os.fspath(name), kwargs.get("subfolder") or ""
    if path.is_file():
        raise ValueError(f"{name} is a file; a model is a folder or a Hub id.")
    if path.is_dir():
        if not any((path / subfolder / file).is_file() for file in files):
            raise ValueError(
                f"The folder {name} holds no model: there is no {' or '.join(files)} in it."
            )
        return
    if path.is_absolute() or repo_id.startswith(".") or repo_id.count("/") > 1:
        raise ValueError(f"No model: there is no folder {name}.")
    place = {key: kwargs.get(key) for key in ("cache_dir", "revision")}
    try:
        for file in files:
            if isinstance(
                try_to_load_from_cache(repo_id, f"{subfolder}/{file}".lstrip("/"), **place), str
            ):
                return
        if kwargs.get("local_files_only"):
            raise ValueError(f"No model: {name} is neither a folder nor downloaded before.")
        HfApi(token=kwargs.get("token")).model_info(
            repo_id, revision=kwargs.get("revision"), timeout=_SECONDS
        )
    except HFValidationError as error:
        raise ValueError(f"No model: {name!r} is neither a folder nor a Hub id.") from error
    except RepositoryNotFoundError as error:
        raise ValueError(
            f"No model: there is no folder {name}, and no repository of that name on the Hub that "
            "you may read."
        ) from error
    except (HTTPError, OSError) as error:
        raise ValueError(
            f"No model: there is no folder {name}, and the Hub cannot be asked: "
            f"{_first_line(error)}"
        ) from error


@contextlib.contextmanager
def _in_one_sentence(name: str | os.PathLike) -> Iterator[None]:
    """What the libraries raise for files that are not there or damaged, as one `ValueError`."""
    try:
        yield
    except _UNREADABLE as error:
        raise ValueError(
            f"The weights of {name} cannot be read; a file is cut or damaged: {_first_line(error)}"
        ) from error
    except OSError as error:
        raise ValueError(f"No model {str(name)!r}: {_first_line(error)}") from error
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, LookupError, RuntimeError, TypeError, ZeroDivisionError) as error:
        # Of a config.json: sizes, such as 0 heads, or a dtype that there is not.
        raise ValueError(f"No model can be made of {name}: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextlib.contextmanager
def _without_table() -> Iterator[None]:
    """Within it transformers does not print its table of missing and other weights: what is in it
    is said here."""
    logger = logging.getLogger("transformers.modeling_utils")

    def keep(record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)


def _listed(names: Collection[str], most: int = 6) -> str:
    """Names in the order of a reader, and how many more there are."""
    ordered = sorted(names, key=lambda key: [int(n) if n.isdigit() else n for n in _parts(key)])
    rest = f" and {len(ordered) - most} more" if len(ordered) > most else ""
    return ", ".join(ordered[:most]) + rest


def _parts(key: str) -> list[str]:
    return re.split(r"(\d+)", key)
