"""Options of `hf-ddistill convert`: those of the command, and the settings of every converter."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field
from typing import Any

from hf_ddistill.cli.families import members
from hf_ddistill.cli.options.member_flags import help_of, value_of
from hf_ddistill.cli.options.option import flag_name, option, word
from hf_ddistill.cli.options.shared import WritesOptions


@dataclass
class ConvertOptions(WritesOptions):
    """make a model of ours of a causal language model, or of what else is recognised

    Args:
        settings: of the converter, by name, as far as they are given.
    """

    model: str = word("folder or Hub id of the model that is converted")
    output: str = option("folder of the new model", MISSING)
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
