"""`hf-ddistill card`: show the card of a model."""

from __future__ import annotations

import argparse

from hf_ddistill.hub import read_card

HELP = "show a model's card"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("model", help="folder or Hub id")


def run(args: argparse.Namespace) -> int:
    """Print the card."""
    print(read_card(args.model))
    return 0
