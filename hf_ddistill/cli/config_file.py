"""`--config FILE.yaml`: options from a file, checked as the flags of the same names are.

Each value becomes the words that would stand on the command line, and goes through its option's
own type, choices and number of values; then it is the option's default, which a flag overrides.
"""

from __future__ import annotations

import argparse
import difflib
import json
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml

from hf_ddistill.cli.values import setting


class _Loader(yaml.SafeLoader):
    """PyYAML's, which takes the last of two equal keys without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Hashable] = set()
        for node_of_key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if node_of_key.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(node_of_key, deep=True)
            if not isinstance(key, Hashable):
                continue  # refused by the base class
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands there twice", node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def read_options(file: Path) -> dict[str, Any]:
    """The options in a file, as YAML has them.

    Raises:
        ValueError: if there is no such file, or it is no YAML mapping in UTF-8.
    """
    if not file.is_file():
        raise ValueError(f"--config names {file}, which is not a file.")
    try:
        options = yaml.load(file.read_bytes().decode("utf-8"), _Loader)
    except UnicodeDecodeError as error:
        raise ValueError(f"--config: {file} is not UTF-8 (byte {error.start}).") from error
    # A date or a number that is none raises ValueError; brackets without end, RecursionError.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"--config: {file} is no YAML: {error}.") from error
    if options is None:
        return {}
    if not isinstance(options, dict):
        raise ValueError(f"--config: {file} must hold a mapping of options, got {_kind(options)}.")
    return options


def take_defaults(parser: argparse.ArgumentParser, file: Path) -> None:
    """Make the options in a file the defaults of a command.

    Raises:
        ValueError: for an option that the command has not, or a value that its flag would refuse.
    """
    actions = {action.dest: action for action in parser._actions}
    known = sorted(set(actions) - {"config", "help", "imports"})
    values: dict[str, Any] = {}
    for key, value in read_options(file).items():
        name = str(key).replace("-", "_")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            listed = ", ".join(known)
            raise ValueError(f"Unknown option in {file}: {key}{hint}; there are: {listed}.")
        if name in values:
            raise ValueError(f"{file} gives {name} twice.")
        try:
            values[name] = _parsed(parser, actions[name], value)
        except (argparse.ArgumentError, argparse.ArgumentTypeError) as error:
            said = error.message if isinstance(error, argparse.ArgumentError) else error
            raise ValueError(f"{file}: {key}: {said}.") from error
    for name, value in values.items():
        action = actions[name]
        # A value of None is none.
        action.required = action.required and value is None
        if not action.option_strings and value is not None:
            action.nargs = "?"
    parser.set_defaults(**values)


def _parsed(parser: argparse.ArgumentParser, action: argparse.Action, value: Any) -> Any:
    """What an option makes of a value from a file."""
    wants_a_list = action.nargs in ("+", "*")
    if value is None and action.default is None and not action.required:
        return None
    if action.nargs == 0 or isinstance(action, argparse.BooleanOptionalAction):
        if not isinstance(value, bool):
            raise argparse.ArgumentTypeError(f"must be true or false, got {_kind(value)}")
        return value
    if isinstance(value, Mapping) and action.type is setting:
        value = _as_json(value)
    if isinstance(value, list) and not wants_a_list:
        raise argparse.ArgumentTypeError("takes one value, got a list")
    values = value if isinstance(value, list) else [value]
    if not values:
        raise argparse.ArgumentTypeError("needs at least one value, got an empty list")
    if wants_a_list and action.type is setting:
        values = [_as_json(item) if isinstance(item, Mapping) else item for item in values]
    words = [_word(item) for item in values]
    if wants_a_list:
        return parser._get_values(action, words)
    # One value as such: `nargs` is None, or "?" of a word without a flag.
    parsed = parser._get_value(action, words[0])
    parser._check_value(action, parsed)
    return parsed


def _word(value: Any) -> str:
    """A scalar as it would stand on the command line."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise argparse.ArgumentTypeError(f"takes a value on one line, got {_kind(value)}")
    return str(value)


def _as_json(value: Mapping[Any, Any]) -> str:
    try:
        return json.dumps(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise argparse.ArgumentTypeError(f"holds what JSON cannot: {error}") from error


def _kind(value: Any) -> str:
    """What YAML made of a value, in the words of YAML."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a mapping"
    return "a list" if isinstance(value, list) else f"{type(value).__name__} {value!r}"
