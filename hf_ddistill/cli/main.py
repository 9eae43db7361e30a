"""The parser and what all commands share: `--config FILE.yaml`, one-sentence errors, exit codes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

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
from hf_ddistill.cli.config_file import take_defaults
from hf_ddistill.cli.console import quiet_unless_terminal
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
    """The parser with all commands, or some."""
    parser = _Parser(prog="hf-ddistill", description="Distil discrete diffusion models.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name in names:
        module = COMMANDS[name]
        epilog = getattr(module, "EPILOG", None)
        command = commands.add_parser(
            name, help=module.HELP, description=module.HELP, epilog=epilog
        )
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
        quiet_unless_terminal()
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
    only = _Parser(prog=command.choices[argv[0]].prog, add_help=False)
    only.add_argument("--config")
    file = only.parse_known_args(argv[1:])[0].config
    if file is not None:
        take_defaults(command.choices[argv[0]], Path(file))
    return parser.parse_args(argv)
