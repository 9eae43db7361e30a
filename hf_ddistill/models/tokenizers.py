"""Tokenizers by their names: of a folder or a repository of the Hub."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.utils import cached_file

from hf_ddistill.models.loading import check_name
from hf_ddistill.models.made_tokenizers import is_made

#: Any of these makes a folder one with a tokenizer.
FILES = ("tokenizer_config.json", "tokenizer.json", "vocab.txt", "vocab.json", "spiece.model")


def load_tokenizer(name: str, config: PreTrainedConfig | None = None) -> PreTrainedTokenizerBase:
    """A tokenizer from a folder or the Hub.

    Args:
        name: of it.
        config: of its model, where no configuration beside it says which class it has.

    Raises:
        ValueError: if there is none, or it cannot be read.
    """
    if Path(name).is_dir() and not has_tokenizer(name):
        raise ValueError(f"The folder {name} holds no tokenizer.")
    if is_made(name) and not Path(name).exists():
        raise ValueError(
            f"The tokenizer {name} is made of data with a new teacher; elsewhere one is loaded: "
            "give a folder or id."
        )
    check_name(name, files=FILES)
    try:
        found = AutoTokenizer.from_pretrained(name, config=config, trust_remote_code=False)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"No tokenizer {name!r}: {' '.join(str(error).split())}") from error
    except Exception as error:
        # What the library tokenizers raises for a broken file is a bare Exception.
        if type(error) is not Exception:
            raise
        raise ValueError(f"The tokenizer of {name} cannot be read: {error}") from error
    _check_read(found, Path(name) / "vocab.txt")
    return found


def _check_read(tokenizer: PreTrainedTokenizerBase, file: Path) -> None:
    """Raise if a class without a use for the vocabulary that is there has made an empty one."""
    if file.is_file():
        there = len({*file.read_text(encoding="utf-8").split("\n")} - {""})
        if len(tokenizer) < there:
            raise ValueError(
                f"{file} has {there} tokens, and {type(tokenizer).__name__}, which transformers "
                f"takes for this folder, knows {len(tokenizer)}: save a tokenizer there that "
                "reads it, or give one with --tokenizer."
            )


def has_tokenizer(name: str) -> bool:
    """Whether a folder or a repository of the Hub has a tokenizer."""
    if Path(name).is_dir():
        return any((Path(name) / file).is_file() for file in FILES)
    found = cached_file(name, FILES[0], _raise_exceptions_for_missing_entries=False)
    return found is not None
