"""`hf-ddistill card`: show the card of a model."""

from __future__ import annotations

from hf_ddistill.cli.options.card import CardOptions
from hf_ddistill.hub import read_card


def run(options: CardOptions) -> int:
    """Print the card."""
    print(read_card(options.model))
    return 0
