"""Frozen dataclasses that become JSON and come back, found by their `type`.

A family is a direct subclass of `Configurable` (Process, Schedule, ...). Every concrete class of a
family is entered in the family's registry under its name in snake case, so that a new member costs
one file and one import.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import re
from collections.abc import Mapping
from typing import Any, ClassVar, Self, TypeVar

from torch import Tensor

from hf_ddistill.kinds import of_their_kinds

#: A frozen dataclass of settings that belong together.
Settings = TypeVar("Settings")


class Configurable:
    """A member of a family that is rebuilt from `{"type": "name", **fields}`.

    Raises:
        ValueError: for a setting of another kind than its annotation names, or that is not finite;
        from `from_config`, for an unknown type (the message lists those that exist) or an unknown
        key.
    """

    family: ClassVar[str] = ""
    registry: ClassVar[dict[str, type]] = {}
    id: ClassVar[str] = ""
    citation: ClassVar[str] = ""
    #: Whether infinity is a setting, such as of a threshold that is never reached.
    unbounded: ClassVar[bool] = False
    #: Whether its numbers are computed with in single precision.
    sized: ClassVar[bool] = True

    @of_their_kinds
    def __post_init__(self) -> None:
        pass

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__post_init__" in cls.__dict__:
            cls.__post_init__ = of_their_kinds(cls.__dict__["__post_init__"])
        if Configurable in cls.__bases__:
            cls.family, cls.registry = cls.__name__.lower(), {}
        elif not inspect.isabstract(cls) and not cls.__name__.startswith("_"):
            cls.id = (
                cls.__dict__.get("id")
                or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()
            )
            cls.registry[cls.id] = cls

    def to_config(self) -> dict[str, Any]:
        """The object as plain JSON data, `type` first."""
        fields = {
            field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)
        }
        return {"type": self.id, **fields}

    @classmethod
    def from_config(cls, config: Mapping[str, Any] | str | Self) -> Self:
        """Rebuild a member of this family from its configuration, its bare type name, or itself."""
        if isinstance(config, cls):
            return config
        config = {"type": config} if isinstance(config, str) else config
        if not isinstance(config, Mapping) or "type" not in config:
            article = "An" if cls.family[0] in "aeiou" else "A"
            raise ValueError(
                f"{article} {cls.family} is given by its name or by a mapping with a 'type', got "
                f"{config!r}."
            )
        member = cls.named(config["type"])
        given = {key: value for key, value in config.items() if key != "type"}
        known = [field.name for field in dataclasses.fields(member)]
        for key in given:
            if key not in known:
                raise ValueError(
                    f"{member.__name__} has no setting {key!r}; it has: "
                    f"{', '.join(known) or 'none'}."
                )
        missing = [
            field.name
            for field in dataclasses.fields(member)
            if field.name not in given
            and field.default is dataclasses.MISSING
            and field.default_factory is dataclasses.MISSING
        ]
        if missing:
            raise ValueError(f"{member.__name__} needs {', '.join(missing)}; got {config!r}.")
        return member(**given)

    @classmethod
    def named(cls, name: str) -> type[Self]:
        """The class registered under `name` in this family."""
        if not isinstance(name, str) or name not in cls.registry:
            near = difflib.get_close_matches(str(name), cls.registry, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise ValueError(
                f"Unknown {cls.family} {name!r}{hint}; there are: "
                f"{', '.join(sorted(cls.registry))}."
            )
        return cls.registry[name]


def _plain(value: Any) -> Any:
    if isinstance(value, Configurable):
        return value.to_config()
    if isinstance(value, Tensor):
        return value.tolist()
    if dataclasses.is_dataclass(value):
        return {each.name: _plain(getattr(value, each.name)) for each in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return value


def read_members(owner: Configurable, **families: type[Configurable]) -> None:
    """Make members of their families of what fields of a frozen dataclass were given as: names,
    mappings or members. The families by the names of the fields."""
    for name, family in families.items():
        object.__setattr__(owner, name, family.from_config(getattr(owner, name)))


def settings_of(cls: type[Settings], value: Any, name: str) -> Settings | None:
    """A dataclass of settings that a member has as one of its own: as it is, from a mapping of its
    fields, or None.

    Args:
        cls: the dataclass.
        value: what was given.
        name: of the setting, for the error.

    Raises:
        ValueError: for a field that it has not, or anything else.
    """
    if value is None or isinstance(value, cls):
        return value
    known = dataclasses.fields(cls)
    named = ", ".join(field.name for field in known)
    if not isinstance(value, Mapping) or not set(value) <= {field.name for field in known}:
        raise ValueError(f"{name} must be None or a mapping with some of {named}, got {value!r}.")
    for field in known:
        if field.default is dataclasses.MISSING and field.name not in value:
            raise ValueError(f"{name} needs {field.name}, got {value!r}.")
    return cls(**value)


def frozen(value: Any) -> Any:
    """Lists, tuples and tensors as nested tuples: what a frozen dataclass can hold, compare and
    hash."""
    value = value.tolist() if isinstance(value, Tensor) else value
    return tuple(frozen(item) for item in value) if isinstance(value, (tuple, list)) else value
