"""Tokenizers of others, whose own code is not run."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import transformers
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from hf_ddistill.convert.source import read_object
from hf_ddistill.models.tokenizers import has_tokenizer, load_tokenizer

_SUFFIXES = (".json", ".txt", ".model", ".jinja")
_OF_MODEL = ("config.json", "generation_config.json")
_SETTINGS = "tokenizer_config.json"


def read_tokenizer(
    source: str | Path, text: PreTrainedConfig | None = None, given: str | None = None
) -> PreTrainedTokenizerBase | None:
    """The tokenizer that is given, else that of a folder, if it has one.

    One of a class of its own, such as Dream's, is read as that of its network's kin: from
    `tokenizer.json`, or with the class that transformers has for such a network.

    Args:
        source: the folder, or a file of weights.
        text: configuration of the causal language model with the same network, if there is one.
        given: a folder or Hub id.

    Raises:
        ValueError: if one is given and not there, or if it cannot be read.
    """
    if given is not None:
        return load_tokenizer(given)
    source = Path(source)
    if not source.is_dir() or not has_tokenizer(str(source)):
        return None
    with tempfile.TemporaryDirectory() as alone:
        # Away from the configuration, whose type transformers does not know.
        for file in source.iterdir():
            if file.suffix in _SUFFIXES and file.name not in _OF_MODEL:
                shutil.copy(file, alone)
        try:
            whole = (source / "tokenizer.json").is_file()
            named = _without_code(Path(alone) / _SETTINGS, whole)
            # Beside a configuration transformers takes its class for a general one that is named,
            # with tokens of that class's own.
            return load_tokenizer(alone, None if named else text)
        except ValueError as error:
            said = str(error).replace(alone, str(source))
            raise ValueError(f"The tokenizer of {source} cannot be read: {said}") from error


def _without_code(file: Path, whole: bool) -> bool:
    """Write the settings of a tokenizer without its code's names; whether they name a class.

    Args:
        file: of the settings; it may be missing.
        whole: whether there is a `tokenizer.json`, which says all that a class would.
    """
    if not file.is_file():
        return False
    settings = read_object(file)
    settings.pop("auto_map", None)
    kind = settings.get("tokenizer_class")
    if kind is not None and not (isinstance(kind, str) and hasattr(transformers, kind)):
        del settings["tokenizer_class"]
        if whole:
            settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    file.write_text(json.dumps(settings, ensure_ascii=False), encoding="utf-8")
    return settings.get("tokenizer_class") is not None
