"""Options of `hf-ddistill convert`: those of the command, and the settings of every converter."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hf_ddistill.cli.families import members
from hf_ddistill.cli.options.member_flags import help_of, value_of
from hf_ddistill.cli.options.option import flag_name, option, word
from hf_ddistill.cli.options.shared import FolderOptions


@dataclass
class ConvertOptions(FolderOptions):
    """make a model of ours of a checkpoint that others trained: what it is, is recognised

    Args:
        settings: of the converter, by name, as far as they are given.
    """

    model: str = word("folder, file of weights or Hub id of what is converted")
    folder: str | None = word("folder of the new model", None)
    kind: str | None = option(
        "take the source for one of these, where its configuration does not say what it is "
        "(default: what is recognised)",
        choices=lambda: sorted(members("converter")),
    )
    revision: str | None = option("of a Hub id (default: its main branch)")
    settings: Mapping[str, Any] = field(default_factory=dict, metadata={"flag": None})


def add_converters(parser: argparse.ArgumentParser) -> None:
    """A flag for each setting of each converter; two that share a name share the flag."""
    known: set[str] = set()
    for converter in members("converter").values():
        group = parser.add_argument_group(converter.id)
        for setting in converter.settings:
            if setting.name in known:
                continue
            known.add(setting.name)
            kind: dict[str, Any] = {"type": value_of(setting)}
            if setting.accepted == ["bool"]:
                kind = {"action": argparse.BooleanOptionalAction}
            flag = flag_name(setting.name)
            group.add_argument(flag, default=argparse.SUPPRESS, help=help_of(setting), **kind)


def converter_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those that the command line gave."""
    names = (each.name for kind in members("converter").values() for each in kind.settings)
    return {name: values[name] for name in names if name in values}
