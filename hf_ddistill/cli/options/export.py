"""Options of `hf-ddistill export`."""

from __future__ import annotations

from dataclasses import dataclass

from hf_ddistill.cli.families import members
from hf_ddistill.cli.options.option import option, word
from hf_ddistill.cli.options.shared import FolderOptions


@dataclass
class ExportOptions(FolderOptions):
    """write a student in a form that others read: engines that serve it, peers' code"""

    student: str = word("folder or Hub id of a model of ours")
    folder: str | None = word("folder of what is written", None)
    to: str | None = option(
        "the form (hf-ddistill list converters); sdar is what SGLang and lmdeploy serve",
        choices=lambda: sorted(members("converter")),
    )
    revision: str | None = option("of a Hub id (default: its main branch)")
