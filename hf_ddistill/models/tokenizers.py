"""Tokenizers by their names: of a folder or a repository of the Hub."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.utils import cached_file

from hf_ddistill.models.listed_tokenizer import listed_tokenizer, listed_tokens
from hf_ddistill.models.loading import check_name
from hf_ddistill.models.made_tokenizers import is_made

#: Any of these makes a folder one with a tokenizer.
FILES = ("tokenizer_config.json", "tokenizer.json", "vocab.txt", "vocab.json", "spiece.model")


def load_tokenizer(name: str, config: PreTrainedConfig | None = None) -> PreTrainedTokenizerBase:
    """A tokenizer from a folder or the Hub; a folder with a `vocab.txt` alone that its class has no
    use for is read as a list of tokens (`listed_tokenizer`), and that is said.

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
    file = Path(name) / "vocab.txt"
    if not file.is_file() or _reads(found, file):
        return found
    if (Path(name) / "tokenizer.json").is_file() or _names_a_class(Path(name) / FILES[0]):
        raise ValueError(
            f"{file} has {len(listed_tokens(file))} tokens, and {type(found).__name__}, which is "
            f"this folder's, knows {len(found)}: save a tokenizer there that reads it, or give one "
            "with --tokenizer."
        )
    warnings.warn(
        f"{type(found).__name__}, which transformers takes for {name}, does not read its "
        "vocab.txt: it is read as a list of tokens, the longest that fits first.",
        stacklevel=2,
    )
    return listed_tokenizer(file)


def _names_a_class(file: Path) -> bool:
    return file.is_file() and "tokenizer_class" in json.loads(file.read_text(encoding="utf-8"))


def _reads(tokenizer: PreTrainedTokenizerBase, file: Path) -> bool:
    """Whether a tokenizer has a use for the list of tokens that is there: some classes read none of
    it, and BERT's takes a sequence of letters without spaces for one unknown word."""
    tokens = listed_tokens(file)
    if len(tokenizer) < len(tokens):
        return False
    letters = [token for token in tokens if token not in tokenizer.all_special_tokens]
    if len(letters) < 2 or any(len(token) > 1 for token in letters):
        return True
    word = tokenizer.encode("".join(letters[:2]), add_special_tokens=False)
    return tokenizer.unk_token_id not in word


def has_tokenizer(name: str) -> bool:
    """Whether a folder or a repository of the Hub has a tokenizer."""
    if Path(name).is_dir():
        return any((Path(name) / file).is_file() for file in FILES)
    found = cached_file(name, FILES[0], _raise_exceptions_for_missing_entries=False)
    return found is not None
