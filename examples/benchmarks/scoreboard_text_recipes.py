"""What the students of `scoreboard_text.py` are trained by."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from law_matching_of_data import LawMatchingOfData

NOISE = 8


@dataclass(frozen=True)
class Recipe:
    """An objective, and what its student needs.

    Args:
        objective: as a configuration.
        noise: width of the student's noise input.
        noise_per: of each position, or one for a sequence.
        noise_scale: of what it adds at first, in that of a fresh noise input; not with a `start`.
        settings: of the trainer, other than those that all share.
        start: the recipe of the student that this one starts from; each of the two then has half of
            the passes. Empty for a start from the teacher.
    """

    objective: dict[str, Any]
    noise: int = 0
    noise_per: str = "position"
    noise_scale: float = 1.0
    settings: dict[str, Any] = field(default_factory=dict)
    start: str = ""


LAW = {"type": "law_matching", "horizon": "call"}
STEP = {**LAW, "horizon": "step", "divergence": "mean_kl"}
BRIDGE = {**STEP, "horizon": "bridge"}
DATA = {"type": LawMatchingOfData.id}

#: In the order in which they are trained. `nelbo` is no distillation: the teacher trained on for as
#: many passes, which is what a student has to be better than. ReDi and DCD refuse masks.
RECIPES = {
    "law_matching_step": Recipe(STEP, NOISE),
    "law_matching": Recipe(LAW, NOISE),
    "d_mmd": Recipe({"type": "distribution_matching", "start": "grid"}, NOISE),
    "ecd": Recipe({"type": "ecd"}),
    "sdtt": Recipe({"type": "sdtt"}, settings={"rounds": 3}),
    "mcd": Recipe({"type": "mcd"}),
    "nelbo": Recipe({"type": "nelbo"}),
    "alpha": Recipe({"type": "alpha"}),
    "imdm": Recipe({"type": "imdm"}, NOISE),
    "simplex_dmd": Recipe({"type": "simplex_dmd"}, NOISE),
    "di4c": Recipe({"type": "di4c"}, NOISE, "sequence"),
}
#: For what is found out on the validation part (`--pilot`) or with 256 symbols; trained if asked
#: for. "strong": a noise input that adds 1.2 to each channel at first instead of .3.
VARIANTS = {
    "law_matching_step_only": Recipe({**STEP, "steps": "only"}, NOISE),
    "law_matching_each_call": Recipe({**LAW, "steps": "each_call"}, NOISE),
    "law_matching_mean_kl": Recipe({**LAW, "divergence": "mean_kl"}, NOISE),
    "law_matching_jeffreys": Recipe({**LAW, "divergence": "jeffreys"}, NOISE),
    "law_matching_sequence": Recipe(LAW, NOISE, "sequence"),
    "law_matching_strong": Recipe(LAW, NOISE, noise_scale=4.0),
    "law_matching_strong_mean_kl": Recipe({**LAW, "divergence": "mean_kl"}, NOISE, noise_scale=4.0),
    "law_matching_strong_step": Recipe(STEP, NOISE, noise_scale=4.0),
    "law_matching_strong_bridge": Recipe(BRIDGE, NOISE, noise_scale=4.0),
    "law_matching_strong_bridge_jeffreys": Recipe(
        {**BRIDGE, "divergence": "jeffreys"}, NOISE, noise_scale=4.0
    ),
    "law_matching_strong_bridge_only": Recipe({**BRIDGE, "steps": "only"}, NOISE, noise_scale=4.0),
    "law_matching_strong_bridge_both": Recipe(
        {**BRIDGE, **DATA, "data": 0.5}, NOISE, noise_scale=4.0
    ),
    "law_matching_sequence_strong": Recipe(LAW, NOISE, "sequence", noise_scale=4.0),
    "d_mmd_strong": Recipe(RECIPES["d_mmd"].objective, NOISE, noise_scale=4.0),
    "imdm_strong": Recipe(RECIPES["imdm"].objective, NOISE, noise_scale=4.0),
    "simplex_dmd_strong": Recipe(RECIPES["simplex_dmd"].objective, NOISE, noise_scale=4.0),
    "di4c_strong": Recipe(RECIPES["di4c"].objective, NOISE, "sequence", noise_scale=4.0),
    "law_matching_data": Recipe(DATA, NOISE),
    "law_matching_both": Recipe({**DATA, "data": 0.5}, NOISE),
    "law_matching_step_data": Recipe({**STEP, **DATA}, NOISE),
    "law_matching_step_only_data": Recipe({**STEP, **DATA, "steps": "only"}, NOISE),
    "law_matching_from_alpha": Recipe(LAW, NOISE, start="alpha"),
    "law_matching_from_d_mmd": Recipe(LAW, NOISE, start="d_mmd"),
}
ALL = {**RECIPES, **VARIANTS}
