"""The files that make a model folder: weights, configurations, tokenizer, scheduler, card."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import PurePosixPath

CARD = "README.md"
#: A folder holds a model if it has one of these; they are moved out first and moved in last, so
#: that a folder between two states is not taken for a model.
ENTRIES = ("config.json", "adapter_config.json", "model_index.json")
_WEIGHTS = ("model", "adapter_model", "diffusion_pytorch_model")
_CONFIGURATIONS = (*ENTRIES, "base_config.json", "generation_config.json")
_TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "vocab.json",
    "vocab.txt",
    "vocab.bpe",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "spm.model",
    "sentencepiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
)
PATTERNS = (
    *(f"{stem}{end}.safetensors" for stem in _WEIGHTS for end in ("", "-*", ".*")),
    *(f"{stem}{end}.safetensors.index*.json" for stem in _WEIGHTS for end in ("", ".*")),
    *(f"{stem}.safetensors.index.*.json" for stem in _WEIGHTS),
    *_CONFIGURATIONS,
    *_TOKENIZER,
)
SCHEDULER = "scheduler/scheduler_config.json"


def is_model_file(path: str) -> bool:
    """Whether a path relative to a model folder is that of a part of the model, or of its card."""
    return path in (CARD, SCHEDULER) or any(fnmatchcase(path, pattern) for pattern in PATTERNS)


def is_weights(path: str) -> bool:
    """Whether a model file holds weights."""
    return path.endswith(".safetensors") and is_model_file(PurePosixPath(path).name)


def entries_first(path: str) -> tuple[bool, str]:
    """A key that sorts what makes a folder a model before the rest."""
    return PurePosixPath(path).name not in ENTRIES, path
