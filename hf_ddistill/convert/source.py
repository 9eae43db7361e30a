"""What others saved, as it lies on disk: configuration and weights, nothing of it run.

`weights` reads safetensors, whole or in shards, and pickles with `weights_only=True`.
"""

from __future__ import annotations

import contextlib
import json
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor
from transformers.utils import cached_file

from hf_ddistill.convert.inert import Inert, holds_settings, said_by
from hf_ddistill.models import check_name

#: The weights of a folder, in the order in which they are looked for.
_WHOLE = ("model.safetensors", "pytorch_model.bin")
_INDEX = tuple(f"{name}.index.json" for name in _WHOLE)
_PICKLES = (".ckpt", ".pth", ".pt", ".bin")
#: Endings of files of weights.
WEIGHTS = (".safetensors", *_PICKLES)
_SMALL = ["*.json", "*.txt", "*.model", "*.jinja", "*.md"]


def located(name: str, *, weights: bool = False, revision: str | None = None) -> Path:
    """The folder or file of a source; of one on the Hub, its snapshot in the cache.

    Args:
        name: a folder, a file of weights, or a Hub id.
        weights: whether the weights are wanted, too.
        revision: of a Hub id.

    Raises:
        ValueError: if there is none, or it is on the Hub and the Hub cannot be asked.
    """
    path = Path(name)
    if path.is_file() and path.suffix in WEIGHTS:
        return path
    if path.is_dir():
        return path
    check_name(name, files=("config.json", *_WHOLE, *_INDEX), revision=revision)
    cached_file(name, "config.json", revision=revision, _raise_exceptions_for_missing_entries=False)
    wanted = [*_SMALL, "*.safetensors"] if weights else _SMALL
    folder = Path(snapshot_download(name, allow_patterns=wanted, revision=revision))
    if weights and not any(folder.glob("*.safetensors")):
        wanted = [f"*{ending}" for ending in _PICKLES]
        folder = Path(snapshot_download(name, allow_patterns=wanted, revision=revision))
    return folder


def configuration(source: str | Path) -> dict[str, Any]:
    """The `config.json` of a folder, as it stands; empty where there is none.

    Raises:
        ValueError: if it is no JSON object, or what names its kind is no name.
    """
    read = read_object(Path(source) / "config.json")
    kind = read.get("model_type")
    if kind is not None and not isinstance(kind, str):
        raise ValueError(f"The config.json of {source} gives {kind!r} for model_type, a name.")
    classes = read.get("architectures")
    if not (classes is None or isinstance(classes, list)):
        raise ValueError(f"The config.json of {source} gives {classes!r} for architectures, names.")
    return read


def read_object(file: Path) -> dict[str, Any]:
    """What a JSON file says; empty where there is none.

    Raises:
        ValueError: if it is no JSON object.
    """
    if not file.is_file():
        return {}
    try:
        read = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"The {file.name} of {file.parent} is no JSON: {error}") from error
    if not isinstance(read, dict):
        raise ValueError(f"The {file.name} of {file.parent} must hold an object, not {read!r:.40}.")
    return read


def training_settings(source: str | Path) -> dict[str, Any]:
    """The configuration that a training checkpoint keeps of its run; empty where there is none.

    Args:
        source: a file, or a folder with one file of weights.

    Raises:
        ValueError: as of `weights`.
    """
    with _in_one_sentence(source):
        files = _files(Path(source))
        if len(files) > 1 or files[0].suffix == ".safetensors":
            return {}
        settings = _loaded(files[0]).get("hyper_parameters")
    settings = settings if isinstance(settings, Mapping) else {}
    said = said_by(settings.get("config", settings))
    return said if isinstance(said, dict) else {}


def weights(source: str | Path) -> dict[str, Tensor]:
    """All tensors of a folder or file under their own names, in their own order.

    Of a training checkpoint it is the moving average where it has one, else what was trained.

    Raises:
        ValueError: if there are none, or a file is cut, damaged, missing, or holds code.
    """
    with _in_one_sentence(source):
        files = _files(Path(source))
        read: dict[str, Tensor] = {}
        for file in files:
            read |= load_file(file) if file.suffix == ".safetensors" else _of_pickle(file)
    return read


def shapes(source: str | Path) -> dict[str, tuple[int, ...]]:
    """The names and shapes of all tensors; of safetensors only the headers are read."""
    with _in_one_sentence(source):
        found: dict[str, tuple[int, ...]] = {}
        for file in _files(Path(source)):
            if file.suffix == ".safetensors":
                with safe_open(file, "pt") as opened:
                    for key in opened.keys():  # noqa: SIM118 (it is no mapping)
                        found[key] = tuple(opened.get_slice(key).get_shape())
            else:
                found |= {key: tuple(value.shape) for key, value in _of_pickle(file).items()}
    return found


def _files(source: Path) -> list[Path]:
    if source.is_file():
        return [source]
    for name in _WHOLE:
        if (source / name).is_file():
            return [source / name]
    for name in _INDEX:
        if (source / name).is_file():
            shards = read_object(source / name).get("weight_map")
            listed = list(shards.values()) if isinstance(shards, dict) else []
            if not listed or not all(_is_inside(shard) for shard in listed):
                raise ValueError(f"The {name} of {source} lacks a weight_map with files beside it.")
            files = [source / shard for shard in sorted(set(listed))]
            missing = [file.name for file in files if not file.is_file()]
            if missing:
                raise ValueError(
                    f"Of the weights of {source}, {len(missing)} of {len(files)} files that "
                    f"{name} names are not there: {', '.join(missing[:3])}."
                )
            return files
    other = [*source.glob("*.safetensors")] or [
        file for ending in _PICKLES for file in source.glob(f"*{ending}")
    ]
    if len(other) == 1:
        return other
    said = f"several files that may be ({', '.join(sorted(f.name for f in other))})"
    raise ValueError(f"The folder {source} has {said if other else 'no weights'}; name one file.")


def _is_inside(shard: Any) -> bool:
    """Whether what an index names is a file of its own folder."""
    return isinstance(shard, str) and not Path(shard).is_absolute() and ".." not in shard


def check_floating(state: Mapping[str, Tensor], source: str) -> None:
    """Raise for weights that are numbers of a quantised model, which no network here reads."""
    read = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
    other = sorted(key for key, value in state.items() if value.dtype not in read)
    if other:
        kind = str(state[other[0]].dtype).removeprefix("torch.")
        raise ValueError(
            f"{len(other)} of {len(state)} weights of {source} are {kind}, such as {other[0]}: it "
            "is quantised; give the checkpoint that it was made of."
        )


def _loaded(file: Path) -> Mapping[str, Any]:
    """A pickle of tensors and settings; of the latter an `Inert` stands for each object."""
    try:
        unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    except ValueError:  # an old pickle, without an archive: torch reads what is allowed
        unsafe = []
    code = sorted(name for name in unsafe if not holds_settings(name))
    if code:
        raise ValueError(
            f"{file} is a pickle that holds code ({', '.join(code[:3])}), which is never run; save "
            "its weights as safetensors where it was written."
        )
    with torch.serialization.safe_globals([(Inert, name) for name in unsafe]):
        mapped = zipfile.is_zipfile(file)
        read = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    if not isinstance(read, Mapping):
        raise ValueError(f"{file} holds a {type(read).__name__} and no weights by name.")
    return read


def _of_pickle(file: Path) -> dict[str, Tensor]:
    """The tensors of a pickle: a state dict, or a training checkpoint with one inside."""
    read = _loaded(file)
    state = next((read[key] for key in ("state_dict", "model") if _is_state(read, key)), read)
    state = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    if not state:
        raise ValueError(f"{file} holds no weights, but: {', '.join(map(str, list(read)[:6]))}.")
    average = read.get("ema")
    shadow = average.get("shadow_params") if isinstance(average, Mapping) else None
    return state if shadow is None else _averaged(state, shadow, file)


def _is_state(read: Mapping[str, Any], key: str) -> bool:
    return isinstance(read.get(key), Mapping)


def _averaged(state: dict[str, Tensor], shadow: list[Tensor], file: Path) -> dict[str, Tensor]:
    """The moving average that a training checkpoint keeps as a list in the order of `parameters()`:
    that of the state dict without buffers, a tied weight counted once."""
    seen: set[tuple[int, tuple[int, ...]]] = set()
    names = []
    for key, value in state.items():
        place = (value.data_ptr(), tuple(value.shape))
        if not key.endswith(BUFFERS) and (not value.numel() or place not in seen):
            names.append(key)
        seen.add(place)
    if len(names) != len(shadow):
        # What a trainer saves beside the networks, such as its metrics, is not averaged.
        of_network = re.compile(r"((module|_orig_mod)\.)*(backbone|noise)\.")
        names = [key for key in names if of_network.match(key)] or names
    if [state[key].shape for key in names] != [value.shape for value in shadow]:
        raise ValueError(
            f"The moving average in {file} has {len(shadow)} tensors that do not match its "
            f"{len(names)} weights one to one; it cannot be told which is which."
        )
    average = dict(zip(names, shadow, strict=True))
    tied = {(state[key].data_ptr(), tuple(state[key].shape)): average[key] for key in names}
    return {
        key: average.get(key, tied.get((value.data_ptr(), tuple(value.shape)), value))
        for key, value in state.items()
    }


#: Endings of names under which peers save what is not learned.
BUFFERS = ("rotary_emb.inv_freq", "sampling_eps_min", "sampling_eps_max", "_cached")


@contextlib.contextmanager
def _in_one_sentence(source: str | Path) -> Iterator[None]:
    """What the libraries raise for damaged files, as one `ValueError`."""
    try:
        yield
    except (SafetensorError, zipfile.BadZipFile, EOFError, RuntimeError, KeyError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"The weights of {source} cannot be read; a file is cut or damaged: {first}"
        ) from error
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"The weights of {source} are a pickle that is damaged or holds code, which is never "
            "run; save them as safetensors where they were written."
        ) from error
