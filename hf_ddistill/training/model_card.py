"""Model cards that say what was done and what was measured, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

TEMPLATE = Path(__file__).with_name("model_card.md")


@dataclass(frozen=True)
class CardFacts:
    """What a card tells.

    Args:
        name: of the model.
        objective: its configuration; `citation` is that of its paper.
        diffusion: process, schedule and parameterization.
        steps: network calls per sample that the model is meant for.
        teacher: name of the teacher; None for a model trained on data alone.
        data: what it was trained on, in words; None if not known.
        rows: measured figures, flat rows with the same keys.
        training: settings of the run worth telling.
        license: of the weights.
        tags: more tags.
        block_size: tokens in a block, of a block-diffusion model.
        adapters: what they are, where the weights are adapters on a base.
        base: name of that base, if it has one.
    """

    name: str
    objective: Mapping[str, Any]
    citation: str
    diffusion: Mapping[str, Any]
    steps: int
    teacher: str | None = None
    data: str | None = None
    rows: Sequence[Mapping[str, Any]] = ()
    training: Mapping[str, Any] = field(default_factory=dict)
    license: str | None = None
    tags: Sequence[str] = ()
    block_size: int | None = None
    adapters: str | None = None
    base: str | None = None


def write_card(folder: str | Path, facts: CardFacts) -> ModelCard:
    """Write README.md into `folder`."""
    kind = "distilled" if facts.teacher else "trained"
    known = [name for name in (facts.base, facts.teacher) if is_repo_id(name or "")]
    relation = {"base_model_relation": "adapter"} if facts.adapters and known else {}
    more = ["peft"] if facts.adapters else []
    data = ModelCardData(
        library_name="hf_ddistill",
        license=facts.license,
        base_model=known[0] if known else None,
        tags=["discrete-diffusion", kind, facts.objective["type"], *more, *facts.tags],
        model_name=facts.name,
        **relation,
    )
    card = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        facts=facts,
        objective=json.dumps(dict(facts.objective), indent=2),
        diffusion=json.dumps(dict(facts.diffusion), indent=2),
        table=table(facts.rows),
    )
    Path(folder).mkdir(parents=True, exist_ok=True)
    card.save(Path(folder) / "README.md")
    return card


def with_figures(card: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """The text of a card with these measured rows in the place of those that it has.

    Raises:
        ValueError: if it has no place for them, as cards of `write_card` do.
    """
    before, place, behind = card.partition("## Measured\n\n")
    _, blank, rest = behind.partition("\n\n")
    if not (place and blank):
        raise ValueError('The card has no section "Measured" for figures.')
    return before + place + table(rows) + blank + rest


def is_repo_id(name: str) -> bool:
    """Whether `name` is an id on the Hub, "user/name", and not the path of a folder."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return "/" in name and not Path(name).exists()


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Flat rows as a Markdown table, floats to four significant digits."""
    if not rows:
        return "Nothing has been measured yet."
    keys = list(dict.fromkeys(key for row in rows for key in row))
    lines = [keys, ["---"] * len(keys)]
    for row in rows:
        cells = [row.get(key, "") for key in keys]
        lines.append([f"{c:.4g}" if isinstance(c, float) else str(c) for c in cells])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
