"""The parser and what all commands share: `--config FILE.yaml`, one-sentence errors, exit codes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import yaml

from hf_ddistill.cli import (
    card,
    convert,
    diagnose,
    distill,
    evaluate,
    exact,
    list_families,
    push,
    quickstart,
    sample,
    teacher,
)
from hf_ddistill.cli.written import add_overwrite, check_outputs

#: Each module has HELP, `add_arguments(parser)` and `run(args) -> int`.
COMMANDS: dict[str, ModuleType] = {
    "quickstart": quickstart,
    "teacher": teacher,
    "distill": distill,
    "sample": sample,
    "evaluate": evaluate,
    "exact": exact,
    "diagnose": diagnose,
    "list": list_families,
    "convert": convert,
    "card": card,
    "push": push,
}


class _Parser(argparse.ArgumentParser):
    """argparse whose errors are one sentence without the usage in front of it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def build_parser() -> argparse.ArgumentParser:
    """The parser with all commands."""
    parser = _Parser(prog="hf-ddistill", description="Distil discrete diffusion models.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, module in COMMANDS.items():
        command = commands.add_parser(name, help=module.HELP, description=module.HELP)
        command.add_argument(
            "--config", metavar="FILE", help="YAML with these options; flags override."
        )
        module.add_arguments(command)
        add_overwrite(command)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0 if it worked, 2 for a wrong argument (one sentence on stderr), 130 if interrupted.
    """
    parser = build_parser()
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        args = _parsed(parser, argv)
        if args.command is None:
            parser.print_help()
            return 0
        check_outputs(args)
        return COMMANDS[args.command].run(args)
    except (ValueError, OSError) as error:
        print(f"hf-ddistill: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("hf-ddistill: interrupted; the same command goes on or starts anew.", file=sys.stderr)
        return 130


def _parsed(parser: argparse.ArgumentParser, argv: list[str]) -> argparse.Namespace:
    """Parse, with the options of a YAML file as defaults."""
    if not argv or argv[0] not in COMMANDS:
        return parser.parse_args(argv)
    command = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    sub = command.choices[argv[0]]
    only = _Parser(add_help=False)
    only.add_argument("--config")
    file = only.parse_known_args(argv[1:])[0].config
    if file is not None:
        _take_defaults(sub, _read(Path(file)))
    return parser.parse_args(argv)


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise ValueError(f"--config names {file}, which is not a file.")
    options = yaml.safe_load(file.read_text()) or {}
    if not isinstance(options, dict):
        raise ValueError(f"{file} must hold a mapping of options, got {type(options).__name__}.")
    return {str(key).replace("-", "_"): value for key, value in options.items()}


def _take_defaults(parser: argparse.ArgumentParser, options: dict[str, Any]) -> None:
    actions = {action.dest: action for action in parser._actions if action.dest != "help"}
    unknown = sorted(set(options) - set(actions))
    if unknown:
        raise ValueError(
            f"Unknown option in the configuration: {', '.join(unknown)}; there are: "
            f"{', '.join(sorted(set(actions) - {'config'}))}."
        )
    for key, value in options.items():
        action = actions[key]
        # YAML reads 1e-4 as a string.
        options[key] = action.type(value) if isinstance(value, str) and action.type else value
        if action.choices is not None and options[key] not in action.choices:
            raise ValueError(f"{key} must be one of {', '.join(action.choices)}, got {value!r}.")
        action.required = False
        if not action.option_strings:
            action.nargs = "?"
    parser.set_defaults(**options)
