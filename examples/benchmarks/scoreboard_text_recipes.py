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
        noise_scale: of what it adds at first, in that of a fresh noise input (.3 in each channel),
            not with a `start`; None for what the trainer finds (`training.noise_strength`).
        settings: of the trainer, other than those that all share.
        start: the recipe of the student that this one starts from; each of the two then has half of
            the passes. Empty for a start from the teacher.
        calls: that it is trained for; 0 for the most that the table has (`--calls`).
    """

    objective: dict[str, Any]
    noise: int = 0
    noise_per: str = "position"
    noise_scale: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    start: str = ""
    calls: int = 0


CALL = {"type": "law_matching", "horizon": "call"}
STEP = {**CALL, "horizon": "step", "divergence": "mean_kl"}
BRIDGE = {**STEP, "horizon": "bridge"}
DATA = {"type": LawMatchingOfData.id}
D_MMD = {"type": "distribution_matching", "start": "grid"}
GRIDS = {**D_MMD, "start": "grids"}

#: In the order in which they are trained. `nelbo` is no distillation: the teacher trained on for as
#: many passes, which is what a student has to be better than. ReDi and DCD refuse masks.
RECIPES = {
    "law_matching_bridge": Recipe(BRIDGE, NOISE),
    "law_matching_call": Recipe(CALL, NOISE),
    "d_mmd_grids": Recipe(GRIDS, NOISE),
    "d_mmd": Recipe(D_MMD, NOISE),
    "simplex_dmd": Recipe({"type": "simplex_dmd"}, NOISE),
    "imdm": Recipe({"type": "imdm"}, NOISE),
    "di4c": Recipe({"type": "di4c"}, NOISE, "sequence"),
    "alpha": Recipe({"type": "alpha"}),
    "ecd": Recipe({"type": "ecd"}),
    "sdtt": Recipe({"type": "sdtt"}, settings={"rounds": 3}),
    "mcd": Recipe({"type": "mcd"}),
    "nelbo": Recipe({"type": "nelbo"}),
}


def weak(objective: dict[str, Any], noise_per: str = "position", start: str = "") -> Recipe:
    """With a noise input that adds .3, which tells the student nothing of a token at first."""
    return Recipe(objective, NOISE, noise_per, 1.0, start=start)


def fixed(objective: dict[str, Any], noise_per: str = "position") -> Recipe:
    """With one that adds 1.2, which was strong enough for the first teacher."""
    return Recipe(objective, NOISE, noise_per, 4.0)


def alone(objective: dict[str, Any], calls: int) -> Recipe:
    """For so many calls and no others, which D-MMD of the grid is in any case."""
    only = {"steps": "only"} if objective["type"] == "law_matching" else {}
    return Recipe({**objective, **only}, NOISE, calls=calls)


#: For one number of calls alone, and for what is found out on the validation part (`--pilot`) or
#: with 256 symbols; trained if asked for.
VARIANTS = {
    **{f"law_matching_bridge_for_{calls}": alone(BRIDGE, calls) for calls in (1, 2, 4, 8)},
    **{f"d_mmd_for_{calls}": alone(D_MMD, calls) for calls in (1, 2, 4)},
    "law_matching_reverse_for_8": alone({**BRIDGE, "divergence": "reverse_kl"}, 8),
    "law_matching_bridge_of_data": Recipe({**BRIDGE, **DATA, "data": 1.0}, NOISE),
    "law_matching_bridge_reverse": Recipe({**BRIDGE, "divergence": "reverse_kl"}, NOISE),
    "law_matching_step": fixed(STEP),
    "law_matching_mean_kl": fixed({**CALL, "divergence": "mean_kl"}),
    "law_matching_sequence": fixed(CALL, "sequence"),
    "law_matching_bridge_fixed": fixed(BRIDGE),
    "d_mmd_fixed": fixed(D_MMD),
    "law_matching_bridge_jeffreys": fixed({**BRIDGE, "divergence": "jeffreys"}),
    "law_matching_bridge_only": fixed({**BRIDGE, "steps": "only"}),
    "law_matching_bridge_both": fixed({**BRIDGE, **DATA, "data": 0.5}),
    "law_matching_weak": weak(CALL),
    "law_matching_weak_step": weak(STEP),
    "law_matching_weak_step_only": weak({**STEP, "steps": "only"}),
    "law_matching_weak_each_call": weak({**CALL, "steps": "each_call"}),
    "law_matching_weak_mean_kl": weak({**CALL, "divergence": "mean_kl"}),
    "law_matching_weak_jeffreys": weak({**CALL, "divergence": "jeffreys"}),
    "law_matching_weak_sequence": weak(CALL, "sequence"),
    "law_matching_weak_data": weak(DATA),
    "law_matching_weak_both": weak({**DATA, "data": 0.5}),
    "law_matching_weak_step_data": weak({**STEP, **DATA}),
    "law_matching_weak_step_only_data": weak({**STEP, **DATA, "steps": "only"}),
    "law_matching_weak_from_alpha": weak(CALL, start="alpha"),
    "law_matching_weak_from_d_mmd": weak(CALL, start="d_mmd_weak"),
    "d_mmd_weak": weak(D_MMD),
    "simplex_dmd_weak": weak({"type": "simplex_dmd"}),
    "imdm_weak": weak({"type": "imdm"}),
    "di4c_weak": weak({"type": "di4c"}, "sequence"),
}
ALL = {**RECIPES, **VARIANTS}
