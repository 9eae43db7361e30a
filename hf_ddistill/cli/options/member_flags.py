"""The settings of a member of a family as flags: `--objective law_matching --objective.maskings 2`.

What a member is made of has its settings, too: `--objective.rollouts.tokens 64`. Which flags there
are follows from the member that the command line names; all is known from the source (`families`).
"""

from __future__ import annotations

import argparse
import ast
import difflib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from hf_ddistill.cli.families import Member, Setting, family_rooms, members, structures
from hf_ddistill.kinds import PLAIN


class MemberFlags:
    """The flags of one option that names a member.

    Args:
        name: of the option, such as "objective".
        family: of the member.
        given: what the command line says: for the name of a flag its text, or None.
    """

    def __init__(self, name: str, family: str, given: Callable[[str], str | None]) -> None:
        self.name, self.family, self.given = name, family, given
        self.types: dict[str, str] = {}
        self.named: str | None = None
        self.flags: list[str] = []
        self.config: dict[str, Any] = {}

    def add_to(self, parser: argparse.ArgumentParser, text: str | None) -> None:
        """Add the flags of the member that `text` names, if there is such a one."""
        self.named = _id_in(text)
        if self.named is not None and self.named != text:
            self.config = json.loads(text or "")
        member = members(self.family).get(self.named or "")
        if member is not None and member.settings:
            title = f"--{self.name} {member.id}"
            self._add(parser.add_argument_group(title, _escaped(member.about)), self.name, member)

    def _add(self, group: Any, path: str, member: Member) -> None:
        for setting in member.settings:
            inner = f"{path}.{setting.name}"
            self.flags.append(inner)
            group.add_argument(
                f"--{inner}",
                dest=inner,
                type=value_of(setting),
                default=argparse.SUPPRESS,
                metavar=setting.name.upper(),
                help=help_of(setting),
            )
            found = self._inside(inner, setting)
            if found is not None:
                self._add(group, inner, found)

    def refuse(self, left: Sequence[str]) -> None:
        """Raise for a flag of the member's among the words that no flag took."""
        for text in left:
            name = text.split("=")[0].removeprefix("--")
            if text.startswith(f"--{self.name}.") and self.named is not None:
                check_member(f"--{self.name}", self.family, self.named)
                there = ", ".join(self.flags) or "none"
                raise ValueError(f"--{name}: {self.named} has no such setting; there are: {there}.")

    def _inside(self, path: str, setting: Setting) -> Member | None:
        """What a setting holds, where that has settings itself."""
        family = _family_of(setting)
        if family is None:
            parts = structures(self.family)
            part = next((parts[name] for name in setting.accepted if name in parts), None)
            return part and _as_made(part, setting.default)
        named = _id_in(self.given(path)) or self._in_json(path)
        for member in members(family).values():
            if named == member.id or (named is None and _makes(setting.default, member)):
                self.types[path] = member.id
                return member if named else _as_made(member, setting.default)
        return None

    def _in_json(self, path: str) -> str | None:
        """The id that the option's JSON has at a path."""
        at: Any = self.config
        for name in path.split(".")[1:]:
            at = at.get(name) if isinstance(at, dict) else None
        return at.get("type") if isinstance(at, dict) else at if isinstance(at, str) else None

    def merged(self, text: str, values: Mapping[str, Any]) -> str:
        """The option's text, with what the flags of its member say: an id as it is, or JSON."""
        own = {key: value for key, value in values.items() if key.startswith(f"{self.name}.")}
        if not own:
            return text
        config = json.loads(text) if text.startswith("{") else {"type": text}
        for path, value in sorted(own.items()):  # what holds others comes before them
            place, *names = path.split(".")
            at = config
            for name in names[:-1]:
                place = f"{place}.{name}"
                there = at.get(name)
                if not isinstance(there, dict):
                    kind = there if isinstance(there, str) else self.types.get(place)
                    there = at[name] = {} if kind is None else {"type": kind}
                at = there
            at[names[-1]] = value
        return json.dumps(config)


def check_member(option: str, family: str, text: str | Mapping[str, Any]) -> None:
    """Raise for an unknown member or setting, or a setting of another kind than it takes.

    Args:
        option: as it is written, such as "--objective".
        family: of the member.
        text: an id, JSON, or what JSON gave.
    """
    given = json.loads(text) if isinstance(text, str) and text.startswith("{") else text
    given = {"type": given} if isinstance(given, str) else given
    kind, known = given.get("type"), members(family)
    if not isinstance(kind, str):
        raise ValueError(f"{option} needs a 'type': its {family}'s id; got {json.dumps(given)}.")
    if kind not in known:
        near = difflib.get_close_matches(kind, known, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(
            f"{option}: unknown {family} {kind!r}{hint}; there are: {', '.join(sorted(known))}."
        )
    settings = {key: value for key, value in given.items() if key != "type"}
    _check_settings(option, family, known[kind], known[kind].name, settings)


def _check_settings(
    option: str, family: str, member: Member, called: str, given: Mapping[str, Any]
) -> None:
    for name, value in given.items():
        setting = member.setting(name)
        if setting is None:
            known = ", ".join(each.name for each in member.settings) or "none"
            raise ValueError(f"{option}: {called} has no setting {name!r}; it has: {known}.")
        inner, parts = _family_of(setting), structures(family)
        part = next((parts[each] for each in setting.accepted if each in parts), None)
        if part is not None and isinstance(value, Mapping):
            _check_settings(option, family, part, f"{name} of {member.id}", value)
        elif inner is not None and isinstance(value, str | Mapping):
            check_member(f"{option}: {name} of {member.id}", inner, value)
        elif (part or inner) and not (value is None and "None" in setting.accepted):
            meant = "a mapping of its settings" if part else "an id, or a mapping with a 'type'"
            shown = json.dumps(value)
            raise ValueError(f"{option}: {name} of {member.id} must be {meant}, got {shown}.")
        else:
            _check_kind(option, member, setting, value)


def _check_kind(option: str, member: Member, setting: Setting, value: Any) -> None:
    plain = [PLAIN[each] for each in setting.accepted if each in PLAIN]
    others = [each for each in setting.accepted if each not in PLAIN and each != "None"]
    if value is None and "None" in setting.accepted:
        return
    if plain and not others and not any(holds(value) for _, holds in plain):
        meant = " or ".join(words for words, _ in plain)
        shown = json.dumps(value)
        raise ValueError(f"{option}: {setting.name} of {member.id} must be {meant}, got {shown}.")


def help_of(setting: Setting) -> str:
    """What a setting is, and its default, for argparse."""
    said = setting.about.removesuffix(".")
    if said[1:2].islower():  # a word, and no symbol
        said = said[0].lower() + said[1:]
    if "(default" not in said:
        default = "it has to be given" if setting.default is None else f"default: {setting.default}"
        said = f"{said} ({default})".strip()
    return _escaped(said)


def value_of(setting: Setting) -> Callable[[str], Any]:
    """The type of a setting's flag: JSON, but for the words that stand for themselves."""
    accepted = setting.accepted
    plain = [each for each in accepted if each in PLAIN]
    only_plain = all(each in PLAIN or each == "None" for each in accepted)

    def parse(text: str) -> Any:
        if "None" in accepted and text in ("none", "null"):
            return None
        if only_plain and plain == ["str"]:
            return text
        try:
            value = json.loads(text)
        except (json.JSONDecodeError, RecursionError):
            value = text
        finite = not isinstance(value, float) or math.isfinite(value)
        if only_plain and not (finite and any(PLAIN[each][1](value) for each in plain)):
            meant = " or ".join(PLAIN[each][0] for each in plain)
            raise argparse.ArgumentTypeError(f"must be {meant}, got {text!r}")
        if isinstance(value, str) and text.lstrip().startswith(("{", "[")):
            raise argparse.ArgumentTypeError(f"takes an id or JSON; {text!r} is no JSON")
        return value

    return parse


def _family_of(setting: Setting) -> str | None:
    classes = {name: family for family, (name, _) in family_rooms().items()}
    return next((classes[each] for each in setting.accepted if each in classes), None)


def _call(default: str | None) -> ast.Call | None:
    """A default such as `Static('entropy')`, as it stands in the source."""
    try:
        node = ast.parse(default or "None", mode="eval").body
    except SyntaxError:  # the look of an object
        return None
    return node if isinstance(node, ast.Call) else None


def _makes(default: str | None, member: Member) -> bool:
    """Whether a default is this member: its id, or a call of its class."""
    call = _call(default)
    if call is None:
        return default is not None and default.strip("'\"") == member.id
    return ast.unparse(call.func) == member.name


def _as_made(member: Member, default: str | None) -> Member:
    """The member with the defaults that a call of its class gives to its settings."""
    call = _call(default)
    if call is None:
        return member
    names = [setting.name for setting in member.settings]
    given = dict(zip(names, call.args, strict=False)) | {k.arg: k.value for k in call.keywords}
    settings = (
        replace(each, default=ast.unparse(given[each.name])) if each.name in given else each
        for each in member.settings
    )
    return replace(member, settings=tuple(settings))


def _id_in(text: str | None) -> str | None:
    """The id in an option's text, where it names one."""
    if text is None or not text.startswith("{"):
        return text
    try:
        kind = json.loads(text).get("type")
    except (json.JSONDecodeError, RecursionError):
        return None  # refused by the option's own type
    return kind if isinstance(kind, str) else None


def _escaped(text: str) -> str:
    return text.replace("%", "%%")
