"""Options of `hf-ddistill card`."""

from __future__ import annotations

from dataclasses import dataclass

from hf_ddistill.cli.options.option import word


@dataclass
class CardOptions:
    """show a model's card"""

    model: str = word("folder or Hub id")
