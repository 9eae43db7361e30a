"""Options of `hf-ddistill card`."""

from __future__ import annotations

from dataclasses import dataclass

from hf_ddistill.cli.options.option import option, word


@dataclass
class CardOptions:
    """show a model's card, or put figures in it"""

    model: str = word("folder or Hub id")
    figures: str | None = option(
        "rows of JSON, as evaluate --json writes them, that become the card's figures",
        metavar="FILE",
    )
