"""The files of a pipeline, in a folder or on the Hub."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from transformers import AutoTokenizer
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

#: What of the arguments of `from_pretrained` speaks of the download alone.
HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "token", "revision")


def fetched(repo_id: str, arguments: Mapping[str, Any]) -> str:
    """The folder of a repository of the Hub, downloaded."""
    given = {key: arguments[key] for key in HUB_ARGUMENTS if arguments.get(key) is not None}
    # A trainer's repository may hold its checkpoints, each as large as the model.
    return snapshot_download(
        repo_id, ignore_patterns=["checkpoint-*/*", "training_args.bin"], **given
    )


def tokenizer_in(folder: str) -> PreTrainedTokenizerBase | None:
    """The tokenizer of a folder, where it has one."""
    if not os.path.isfile(os.path.join(folder, "tokenizer_config.json")):
        return None
    return AutoTokenizer.from_pretrained(folder)


def flatten(folder: str | os.PathLike) -> None:
    """Move the files of model and tokenizer from their subfolders to the root."""
    root = Path(folder)
    for part in ("model", "tokenizer"):
        for file in (root / part).glob("*"):
            file.replace(root / file.name)
        if (root / part).is_dir():
            (root / part).rmdir()
