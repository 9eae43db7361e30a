"""Options as data: a command's options are a dataclass, and each field of it is a flag.

The type, the default and the help of a flag are those of its field; no module of this folder
imports torch, so that a wrong flag is refused, and `--help` answered, at once.
"""

from __future__ import annotations

import argparse
import dataclasses
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field
from typing import Any

from hf_ddistill.cli.values import number, setting, whole
from hf_ddistill.training.settings import BOUNDS, Bounds

PLAIN: dict[type, Callable[[str], Any]] = {int: whole(), float: number(), str: str}
Options = typing.TypeVar("Options")


@dataclass(frozen=True)
class Flag:
    """What a field cannot say of itself.

    Args:
        about: the help; says in its own words what "(default: ...)" is where None means something.
        kind: what its text becomes; that of the field's annotation if not given.
        choices: that it accepts alone.
        many: whether it takes several values.
        group: title of its group in the help, and what that is about.
        family: of which the value is a member, an id or JSON; its settings are flags, too.
        metavar: for its value.
        is_word: whether it is a word by its place, without a flag.
        alone: what a flag without a value means; None where it has to have one.
    """

    about: str
    kind: Callable[[str], Any] | None = None
    choices: Sequence[str] | Callable[[], Sequence[str]] | None = None
    many: bool = False
    group: tuple[str, str | None] | None = None
    family: str | None = None
    metavar: str | None = None
    is_word: bool = False
    alone: str | None = None


def option(about: str, default: Any = None, **more: Any) -> Any:
    """A field of an options class.

    Args:
        about: its help.
        default: its value where nobody gives one; `MISSING` where somebody has to.
        more: of `Flag`.
    """
    return field(default=default, kw_only=True, metadata={"flag": Flag(about, **more)})


def word(about: str, default: Any = MISSING, **more: Any) -> Any:
    """A field whose value stands by its place, without a flag."""
    return option(about, default, is_word=True, **more)


def add_options(
    parser: argparse.ArgumentParser, options: type, without: Sequence[str] = ()
) -> None:
    """A flag for each field of a dataclass, but those that are left out."""
    hints = typing.get_type_hints(options)
    groups: dict[tuple[str, str | None], Any] = {}
    needed_first = sorted(dataclasses.fields(options), key=lambda each: not _is_needed(each))
    for each in needed_first:
        flag = flag_of(each)
        if flag is None or each.name in without:
            continue
        where: Any = parser
        if flag.group is not None:
            where = groups.get(flag.group) or parser.add_argument_group(*flag.group)
            groups[flag.group] = where
        _add(where, each, flag, hints[each.name])


def flag_of(each: Field) -> Flag | None:
    """A field's flag, or None; of a setting, which knows none, made from its help and name."""
    if "flag" in each.metadata:
        return each.metadata["flag"]
    said = each.metadata.get("help", "").removesuffix(".")
    group = None
    if each.name.startswith("auxiliary_"):
        group = "auxiliary", "the networks that some objectives train beside the student"
    return Flag(said[:1].lower() + said[1:], group=group)


def flag_name(name: str) -> str:
    """As it is written: `--learning-rate`."""
    return "--" + name.replace("_", "-")


def _add(where: Any, each: Field, flag: Flag, hint: Any) -> None:
    accepted = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if flag.many:  # a value of the sequence
        accepted = [inner for hint in accepted for inner in typing.get_args(hint)]
    default = each.default
    required = _is_needed(each)
    if default is MISSING:
        default = None if required else each.default_factory()
    said = flag.about
    if default is None and not required and not flag.is_word and "(default" not in said:
        said += " (default: not set)"
    given: dict[str, Any] = {"help": said, "default": default}
    if bool in accepted:
        if default is False:
            where.add_argument(flag_name(each.name), action="store_true", help=said)
        else:
            action = argparse.BooleanOptionalAction
            where.add_argument(flag_name(each.name), action=action, **given)
        return
    given["type"] = flag.kind or (setting if flag.family else _kind(each.name, accepted))
    if flag.choices is not None:
        given["choices"] = list(flag.choices() if callable(flag.choices) else flag.choices)
    if flag.metavar is not None:
        given["metavar"] = flag.metavar
    if flag.many:
        given["nargs"] = "+"
    if flag.alone is not None:
        given |= {"nargs": "?", "const": flag.alone}
    if flag.is_word:
        where.add_argument(each.name, **given, **({} if required else {"nargs": "?"}))
    else:
        where.add_argument(flag_name(each.name), required=required, **given)


def _is_needed(each: Field) -> bool:
    return each.default is MISSING and each.default_factory is MISSING


def _kind(name: str, accepted: Sequence[Any]) -> Callable[[str], Any]:
    """The type of a plain field, with the bounds of the setting of its name."""
    bounds = BOUNDS.get(name, Bounds())
    if int in accepted:
        least = 0 if bounds.least is None else int(bounds.least)
        return whole(least) if bounds.most is None else whole(least, bounds.most)
    if float in accepted and name in BOUNDS:
        least = bounds.least if bounds.above is None else bounds.above
        ends = ("(" if bounds.above is not None else "") + (")" if bounds.below is not None else "")
        most = float("inf") if bounds.below is None else bounds.below
        return number(float("-inf") if least is None else least, most, ends)
    return next(kind for hint, kind in PLAIN.items() if hint in accepted)


def options_from(cls: type[Options], values: Mapping[str, Any]) -> Options:
    """The options, of what the parser has read."""
    names = {each.name for each in dataclasses.fields(cls)}
    return cls(**{name: value for name, value in values.items() if name in names})
