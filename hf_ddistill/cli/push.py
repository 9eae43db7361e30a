"""`hf-ddistill push`: share a model folder on the Hub."""

from __future__ import annotations

import argparse

from hf_ddistill.hub import push

HELP = "push a model or pipeline folder, with its card, to the Hub"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("folder")
    parser.add_argument("repo", help="user/name on the Hub")
    parser.add_argument("--private", action="store_true")


def run(args: argparse.Namespace) -> int:
    """Upload."""
    print(push(args.folder, args.repo, args.private))
    return 0
