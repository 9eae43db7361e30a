"""The objects of settings in a training checkpoint: what stands for them, and what they said.

Lightning keeps the configuration of a run in the pickle, as objects of omegaconf. None of them is
made when it is read; an `Inert` keeps the plain data that one is made of.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

#: Where classes come from that only hold settings, and the plain types that they speak of.
_SETTINGS = ("omegaconf.", "typing.", "collections.", "pathlib.", "transformers.", "lightning")
_SETTINGS += ("tokenizers.", "pytorch_lightning")
_PLAIN = frozenset(
    f"builtins.{name}" for name in ("dict", "list", "tuple", "set", "int", "float", "str", "bool")
)


class Inert:
    """What stands for an object of settings in a checkpoint; it does nothing."""

    state: Any = None

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None: ...

    def append(self, value: Any) -> None:
        """As of a list; the value is not kept."""


def holds_settings(name: str) -> bool:
    """Whether a class of this name only holds settings."""
    return name.startswith(_SETTINGS) or name in _PLAIN


def said_by(value: Any) -> Any:
    """An object of omegaconf as plain data, references to other settings resolved; what is none of
    those as None."""
    plain = _plain(value)
    return _resolved(plain, plain)


def _plain(value: Any) -> Any:
    if isinstance(value, Inert):
        state = value.state if isinstance(value.state, Mapping) else {}
        return _plain(state.get("_content", state.get("_val")))
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool) else None


def _resolved(value: Any, root: Any, depth: int = 0) -> Any:
    if isinstance(value, dict):
        return {key: _resolved(item, root, depth) for key, item in value.items()}
    if isinstance(value, list):
        return [_resolved(item, root, depth) for item in value]
    reference = re.fullmatch(r"\$\{([\w.]+)\}", value) if isinstance(value, str) else None
    if reference is None or depth > 8:
        return value
    found = root
    for name in reference[1].split("."):
        found = found.get(name) if isinstance(found, dict) else None
    return _resolved(found, root, depth + 1)
