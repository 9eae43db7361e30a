"""`hf-ddistill card`: show the card of a model, or put figures in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_ddistill.cli.options.card import CardOptions
from hf_ddistill.hub import read_card, write_figures


def run(options: CardOptions) -> int:
    """Print the card, as it is then."""
    if options.figures is not None:
        write_figures(options.model, _rows(Path(options.figures)))
    print(read_card(options.model))
    return 0


def _rows(file: Path) -> list[Mapping[str, Any]]:
    """Flat rows, which are a list or stand under "rows"."""
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"--figures {file} cannot be read: {error}") from error
    rows = told.get("rows") if isinstance(told, Mapping) else told
    flat = isinstance(rows, list) and all(isinstance(row, Mapping) for row in rows)
    if not flat or not rows:
        raise ValueError(f'--figures {file} has no list of rows, alone or under "rows".')
    return rows
