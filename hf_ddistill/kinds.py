"""What a setting without settings of its own may hold, and in words: by its annotation's text."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import re
from collections.abc import Callable, Collection, Sequence
from typing import Any


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    # An integer of hundreds of digits is none that torch could compute with.
    return isinstance(value, float) or (_is_whole(value) and abs(value) < 2**1023)


#: By the name of a type, its words and what is of it. A truth value is no number.
PLAIN: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "int": ("an integer", _is_whole),
    "float": ("a number", _is_number),
    "bool": ("true or false", lambda value: isinstance(value, bool)),
    "str": ("a string", lambda value: isinstance(value, str)),
}
_LISTED = {"int": "integers", "float": "numbers", "str": "strings"}


#: Network calls, draws or cells that a setting may ask for: more of them cannot be meant, and would
#: not end or not fit.
MOST = 4096
#: The size of a number that is not 0: others overflow, or divide to infinity, in single precision.
LEAST_SIZE, MOST_SIZE = 1e-12, 1e12


def of_their_kinds(post_init: Callable[[Any], None]) -> Callable[[Any], None]:
    """Decorates `__post_init__` of a frozen dataclass of settings: they are of the kinds that their
    annotations name before it looks at them, and after it finite and of a size that goes with
    single precision (of one that is not `sized`: finite; of an `unbounded` one: no NaN). Numbers
    and lists of NumPy and torch become Python's, and paths strings, which JSON can hold. Settings
    that hold other things than numbers, words and lists of them are left to it.

    Raises:
        ValueError: from the decorated, with the setting, what was got and what is accepted.
    """

    @functools.wraps(post_init)
    def checked(self: Any) -> None:
        outermost = type(self).__post_init__ is checked  # and none that a subclass's own calls
        if outermost:
            check_kinds(self)
        post_init(self)
        if outermost:
            check_sizes(self)

    return checked


def check_kinds(owner: Any, names: Collection[str] | None = None) -> None:
    """Raise for a setting of another kind than its annotation names.

    Args:
        owner: a dataclass of settings.
        names: of those that are looked at; None for all.

    Raises:
        ValueError: with the setting, what was got and what is accepted.
    """
    for name, kinds, listed in _plain_fields(type(owner)):
        if names is not None and name not in names:
            continue
        value = getattr(owner, name)
        if hasattr(value, "tolist"):
            value = value.tolist()
            object.__setattr__(owner, name, value)
        if isinstance(value, os.PathLike) and "str" in kinds:
            value = os.fspath(value)
            object.__setattr__(owner, name, value)
        if listed and isinstance(value, Sequence) and not isinstance(value, str):
            fits = all(any(PLAIN[kind][1](item) for kind in listed) for item in value)
        else:
            fits = any(value is None if kind == "None" else PLAIN[kind][1](value) for kind in kinds)
        if not fits:
            words = ["None" if kind == "None" else PLAIN[kind][0] for kind in kinds]
            words += [f"a list of {_LISTED[kind]}" for kind in listed[:1]]
            raise ValueError(
                f"{name} of {type(owner).__name__} must be {' or '.join(words)}, got {value!r}."
            )


def check_most(owner: Any, *names: str, least: int | None = None) -> None:
    """Raise for a count above `MOST`; None is none.

    Args:
        owner: a dataclass of settings.
        names: of those that count network calls, draws or cells.
        least: that they are, if that is to be checked here.

    Raises:
        ValueError: with the setting and what was got.
    """
    for name in names:
        value = getattr(owner, name)
        if value is not None and least is not None and value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}.")
        if value is not None and value > MOST:
            raise ValueError(
                f"{name} of {type(owner).__name__} must be at most {MOST:,}, got {value:,}: more "
                "would not end."
            )


def check_sizes(owner: Any, names: Collection[str] | None = None) -> None:
    """Raise for a number that is not finite, or not of a size from `LEAST_SIZE` to `MOST_SIZE`;
    arguments and errors as of `check_kinds`."""
    unbounded = getattr(owner, "unbounded", False)
    sized = getattr(owner, "sized", True) and not unbounded
    for name, kinds, listed in _plain_fields(type(owner)):
        if names is not None and name not in names:
            continue
        value, meant = getattr(owner, name), None
        held = value if listed and isinstance(value, Sequence) else (value,)
        held = [abs(item) for item in held if _is_number(item)] if "float" in kinds + listed else []
        if any(item != item or (item == math.inf and not unbounded) for item in held):
            meant = "a number, infinity perhaps," if unbounded else "finite"
        elif sized and any(item and not LEAST_SIZE <= item <= MOST_SIZE for item in held):
            meant = f"0 or from {LEAST_SIZE:g} to {MOST_SIZE:g} in size"
        if meant is not None:
            raise ValueError(f"{name} of {type(owner).__name__} must be {meant}, got {value!r}.")


@functools.cache
def _plain_fields(cls: type) -> list[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    """The fields that hold nothing but plain values or lists of them: name, kinds, kinds in lists.

    A module without `from __future__ import annotations` has types where others have text.
    """
    found = []
    for field in dataclasses.fields(cls):
        text = field.type.__name__ if isinstance(field.type, type) else str(field.type)
        text = text.strip("'\"")
        inner = re.search(r"\b(?:Sequence|tuple|list)\[([a-z| ]+?)(?:, \.\.\.)?\]", text)
        listed = tuple(re.findall(r"\w+", inner[1])) if inner else ()
        rest = text.replace(inner[0], "") if inner else text
        kinds = tuple(re.findall(r"[\w.\[\]]+", rest))
        if set(kinds) <= {*PLAIN, "None"} and set(listed) <= set(_LISTED) and (kinds or listed):
            found.append((field.name, kinds, listed))
    return found
