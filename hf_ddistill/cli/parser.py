"""The parser: flags from the options of the commands, `--config FILE.yaml`, one-sentence errors."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import importlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import hf_ddistill
from hf_ddistill.cli.commands import COMMANDS
from hf_ddistill.cli.config_file import take_defaults
from hf_ddistill.cli.options.convert import ConvertOptions, add_converters, converter_settings
from hf_ddistill.cli.options.member_flags import MemberFlags, check_member
from hf_ddistill.cli.options.option import add_options, flag_name, flag_of, options_from


class _Help(argparse.RawDescriptionHelpFormatter):
    """Says the default of every option that has one, unless its help does so in its own words."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        shown = action.help or ""
        silent = action.default is None or action.default is argparse.SUPPRESS
        if silent or action.nargs == 0 or "(default" in shown:
            return shown
        if isinstance(action.default, list | tuple):
            default = " ".join(map(str, action.default)) or "none"
            return f"{shown} (default: {default})".strip()
        return f"{shown} (default: %(default)s)".strip()


class _Parser(argparse.ArgumentParser):
    """argparse whose errors are one sentence without the usage in front of it."""

    def __init__(self, **kwargs: Any) -> None:
        # No abbreviations: one that is clear today is not, once there is another option.
        super().__init__(**{"formatter_class": _Help, "allow_abbrev": False, **kwargs})

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {' '.join(message.split())}\n")


def build_parser(names: Iterable[str] = tuple(COMMANDS)) -> argparse.ArgumentParser:
    """The parser of all commands, with the options of some."""
    parser = _Parser(prog="hf-ddistill", description="Distil discrete diffusion models.")
    version = f"hf_ddistill {hf_ddistill.__version__}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    names = set(names)
    for name, command in COMMANDS.items():
        about = {"help": command.help, "description": command.help, "epilog": command.epilog}
        sub = commands.add_parser(name, **about)
        if name in names:
            sub.add_argument(
                "--config", metavar="FILE", help="YAML with these options; flags override."
            )
            sub.add_argument(
                "--import",
                dest="imports",
                metavar="MODULE",
                help="a module of your own: its processes, objectives, ... are known then",
            )
            add_options(sub, command.options, getattr(command.options, "without", ()))
            if command.options is ConvertOptions:
                add_converters(sub)
    return parser


def parsed(argv: Sequence[str]) -> tuple[str | None, Any]:
    """The command and its options; None where there is none.

    Raises:
        ValueError: for a file of options or a member of a family that cannot be read.
        SystemExit: after a help, and with the code 2 for a wrong argument.
    """
    name = argv[0] if argv and argv[0] in COMMANDS else None
    parser = build_parser([name] if name else [])
    if name is None:
        _refuse_options_first(parser, argv)
        parser.parse_args(argv)
        parser.print_help()
        return None, None
    values = read(parser, list(argv))
    options = options_from(COMMANDS[name].options, values)
    for field in dataclasses.fields(options):
        flag, value = flag_of(field), getattr(options, field.name)
        if flag is not None and flag.family is not None:
            for text in [value] if isinstance(value, str) else value or ():
                check_member(flag_name(field.name), flag.family, text)
    if hasattr(options, "check"):
        options.check()
    return name, options


def _refuse_options_first(parser: argparse.ArgumentParser, argv: Sequence[str]) -> None:
    """Say where the options of a command stand, where they are before it."""
    behind = next((word for word in argv if word in COMMANDS), None)
    own = [word for action in parser._actions for word in action.option_strings]
    if behind is not None and argv[0].startswith("-") and argv[0] not in own:
        first = argv[0].split("=")[0]
        parser.error(f"options follow the command: {parser.prog} {behind} {first} ...")


def _hint(sub: argparse.ArgumentParser, left: Sequence[str]) -> str:
    """The flag of a command that the first unknown one may be meant for, or where they all are."""
    wrong = next((word for word in left if word.startswith("--")), None)
    if wrong is not None:
        wrong = wrong.split("=")[0].replace("_", "-")
        flags = [f for action in sub._actions for f in action.option_strings if f.startswith("--")]
        flags.remove("--help")
        alike = [f for f in flags if f.startswith(f"{wrong}-") or wrong.endswith(f[1:])]
        if near := alike or difflib.get_close_matches(wrong, flags):
            return f" (did you mean {' or '.join(near)}?)"
    return f" (see {sub.prog} --help)"


def _import(name: str) -> None:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ValueError(f"--import {name}: {error}.") from error
    except Exception as error:  # whatever a module of the user's raises
        raise ValueError(f"--import {name}: {type(error).__name__}: {error}.") from error


def read(parser: argparse.ArgumentParser, argv: list[str]) -> dict[str, Any]:
    """The values of a command's options, with those of a YAML file as defaults."""
    command = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    sub = command.choices[argv[0]]

    def words(name: str) -> list[str]:
        only = _Parser(prog=sub.prog, add_help=False)
        only.add_argument(f"--{name}", dest="words", nargs="+", default=[])
        return only.parse_known_args(argv[1:])[0].words

    def given(name: str) -> str | None:
        return next(iter(words(name)), None)

    if (module := given("import")) is not None:
        _import(module)
    if (file := given("config")) is not None:
        take_defaults(sub, Path(file))
    flags = []
    for field in dataclasses.fields(COMMANDS[argv[0]].options):
        flag = flag_of(field)
        if flag is None or flag.family is None:
            continue
        named = sub.get_default(field.name)
        named = words(field.name) or (named if flag.many else [named] if named else []) or []
        if len(named) == 1 or named and not flag.many:  # of several, none has flags
            flags.append(MemberFlags(field.name, flag.family, given))
            flags[-1].add_to(sub, named[0])
    known, left = parser.parse_known_args(argv)
    for each in flags:
        each.refuse(left)
    if left:
        parser.error(f"unrecognized arguments: {' '.join(left)}{_hint(sub, left)}")
    values = vars(known)
    for each in flags:
        text = values[each.name]
        if isinstance(text, str):
            values[each.name] = each.merged(text, values)
        elif text:
            values[each.name] = [each.merged(text[0], values)]
    if COMMANDS[argv[0]].options is ConvertOptions:
        values["settings"] = converter_settings(values)
    return values
