"""Tokenizers of others, whose own code is not run."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import transformers
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from hf_ddistill.models.tokenizers import has_tokenizer

_SUFFIXES = (".json", ".txt", ".model", ".jinja")
_OF_MODEL = ("config.json", "generation_config.json")
_SETTINGS = "tokenizer_config.json"


def read_tokenizer(source: str | Path, text: PreTrainedConfig) -> PreTrainedTokenizerBase | None:
    """The tokenizer of a folder, if it has one.

    One of a class of its own, such as Dream's, is read as that of its network's kin: from
    `tokenizer.json`, or with the class that transformers has for such a network.

    Args:
        source: the folder.
        text: configuration of the causal language model with the same network.

    Raises:
        ValueError: if it cannot be read.
    """
    source = Path(source)
    if not has_tokenizer(str(source)):
        return None
    with tempfile.TemporaryDirectory() as alone:
        # Away from the configuration, whose type transformers does not know.
        for file in source.iterdir():
            if file.suffix in _SUFFIXES and file.name not in _OF_MODEL:
                shutil.copy(file, alone)
        try:
            _without_code(Path(alone) / _SETTINGS, (source / "tokenizer.json").is_file())
            return AutoTokenizer.from_pretrained(alone, config=text, trust_remote_code=False)
        except (OSError, KeyError, TypeError, ValueError) as error:
            said = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ValueError(f"The tokenizer of {source} cannot be read: {said}") from error
        except Exception as error:
            if type(error) is not Exception:  # what the library tokenizers raises is a bare one
                raise
            raise ValueError(f"The tokenizer of {source} cannot be read: {error}") from error


def _without_code(file: Path, whole: bool) -> None:
    """The settings of a tokenizer without its code's names.

    Args:
        file: of the settings; it may be missing.
        whole: whether there is a `tokenizer.json`, which says all that a class would.
    """
    settings = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    settings.pop("auto_map", None)
    kind = settings.get("tokenizer_class")
    if kind is not None and not hasattr(transformers, kind):
        del settings["tokenizer_class"]
        if whole:
            settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    file.write_text(json.dumps(settings, ensure_ascii=False), encoding="utf-8")
