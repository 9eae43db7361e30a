"""What the scoreboards share: the objectives by name, files of rows that grow, tables of them."""

import json
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Entry:
    """How an objective is trained on a scoreboard.

    Args:
        settings: of the objective, for one student of several numbers of calls.
        noise: whether the student has a noise input.
        noise_per: of each position, or one for a sequence; of exact problems alone.
        training: what is set otherwise than for the others, of the trainer.
        calls: numbers of calls that it is defined for; None for all.
    """

    settings: dict
    noise: bool = True
    noise_per: str = "position"
    training: dict = field(default_factory=dict)
    calls: tuple[int, ...] | None = None


#: Every objective of whole sequences that is defined under masks, by the name of its rows. Settings
#: are the defaults, those of law matching "law_matching_bridge"; "law_matching_call",
#: "law_matching_step" and "d_mmd_grid" are the same methods with other ones.
OBJECTIVES = {
    "law_matching_call": Entry({"type": "law_matching", "horizon": "call"}),
    "law_matching_step": Entry(
        {"type": "law_matching", "horizon": "step", "divergence": "mean_kl"}
    ),
    "law_matching_bridge": Entry(
        {"type": "law_matching", "horizon": "bridge", "divergence": "mean_kl"}
    ),
    "d_mmd": Entry({"type": "distribution_matching", "setting": "d_mmd"}),
    "d_mmd_grid": Entry({"type": "distribution_matching", "setting": "d_mmd", "start": "grid"}),
    "idlm": Entry({"type": "distribution_matching", "setting": "idlm"}),
    "di_mo": Entry({"type": "distribution_matching", "setting": "di_mo"}, calls=(1,)),
    "simplex_dmd": Entry({"type": "simplex_dmd"}),
    "reinforce_dmd": Entry({"type": "reinforce_dmd"}),
    "didi": Entry({"type": "didi"}),
    "representation_mmd": Entry({"type": "representation_mmd"}, noise=False),
    "reranked": Entry({"type": "reranked"}, noise=False),
    "imdm": Entry({"type": "imdm", "teacher_steps": 8}),
    "di4c": Entry({"type": "di4c"}),
    "alpha": Entry({"type": "alpha"}, noise=False),
    "ecd": Entry({"type": "ecd", "times": "grid_times"}, noise=False),
    "sdtt": Entry({"type": "sdtt"}, noise=False),
    "mcd": Entry({"type": "mcd"}, noise=False),
    "lsd": Entry({"type": "lsd"}, noise=False, calls=(2, 4, 8)),
}


class RowsFile:
    """Rows in a JSON file, written after each of them; what is there already is not made again.

    Args:
        file: where they are.
        keys: of a row, that tell it from the others.
    """

    def __init__(self, file: Path, keys: tuple[str, ...]) -> None:
        self.file, self.keys = Path(file), keys
        self.rows = json.loads(self.file.read_text())["rows"] if self.file.exists() else []

    def has(self, **named: object) -> bool:
        """Whether there is a row with these values."""
        return any(all(row.get(key) == named[key] for key in named) for row in self.rows)

    def add(self, row: dict) -> None:
        """Keep it, in the place of one with the same keys."""
        name = [row.get(key) for key in self.keys]
        self.rows = [old for old in self.rows if [old.get(key) for key in self.keys] != name]
        self.rows.append(row)
        draft = self.file.with_suffix(".part")
        draft.write_text(json.dumps({"rows": self.rows}, indent=1) + "\n")
        draft.replace(self.file)


def table(heads: list[str], lines: list[list[str]]) -> str:
    """A table in Markdown."""
    rows = [heads, ["---"] * len(heads), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def short(value: float | None, digits: int = 3) -> str:
    """A number below 10 without its leading zero; nothing for None."""
    if value is None:
        return ""
    text = f"{value:.{digits}f}"
    return text[1:] if text.startswith("0.") else text
