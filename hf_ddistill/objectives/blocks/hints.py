"""A teacher that is shown some of what its student has to guess."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from hf_ddistill.couplings import Local, TrainingStep
from hf_ddistill.kinds import of_their_kinds
from hf_ddistill.linalg import uniform_noise
from hf_ddistill.places import Places
from hf_ddistill.shapes import Tokens, Where


@dataclass(frozen=True)
class Hints:
    """The teacher alone is shown a share of the tokens that are masked in x_t.

    A token that it is shown is no target. A student that matches such a teacher is asked for what
    it cannot know. Under the forward KL it learns the mean over what was hidden, which is what the
    same teacher says without the hint. Under the reverse KL it learns the geometric mean, and is
    surer than it is right. `limit` keeps the target near what the teacher says without the hint:

        (1 - w) p + w p_hinted with the greatest w in [0, 1] for which w KL(p_hinted || p) <= limit

    so that KL(target || p) <= limit (convexity). It takes most from the hints that are the greatest
    surprise, so that it makes even a student under the forward KL a little surer.

    What that is worth, exactly, on patches of digits with a share of .6: forward KL .5610 nats a
    pixel with and without; reverse KL .5664 instead of .5610, and .6027 instead of .5929 on other
    data, for 12 instead of 8 pixels of 100 that are decided above .9; with `limit=0.02` .5616 and
    .5950 for 9. A trained model of characters gained no speed by it and lost .05 to .10 nats
    (`docs/results/diffusion_language_models.md`).

    Args:
        sees: share of the masks that are filled in for the teacher, in (0, 1).
        limit: in nats per token; None for none. It costs a second call of the teacher.

    Raises:
        ValueError: for values out of range.
    """

    sees: float
    limit: float | None = None

    @of_their_kinds
    def __post_init__(self) -> None:
        if not 0 < self.sees < 1:
            raise ValueError(
                f"hints.sees must lie in (0, 1), got {self.sees}: a teacher that is shown nothing "
                "needs no hints (None), and one that is shown all has no token left to predict."
            )
        if self.limit is not None and not self.limit >= 0:
            raise ValueError(f"hints.limit must be at least 0 nats (or None), got {self.limit}.")


@torch.no_grad()
def informed_teacher(
    step: TrainingStep, x_t: Tokens, where: Where | Places, hints: Hints | None, **more: Any
) -> Local:
    """The teacher's prediction at `where`, without gradients; with hints `where` of what comes back
    lacks what it was shown.

    Args:
        step: with a teacher.
        x_t: (B, L), what the student is given.
        where: (B, L), its masks that are asked for.
        hints: what the teacher is shown beside it.
        **more: inputs of the teacher's call.
    """
    teacher = step.peers["teacher"]
    if hints is None:
        return step.look(teacher, x_t, None, where, **more)
    hidden = (x_t != step.x_0) & step.trained
    noise = uniform_noise(x_t.shape, step.generator, x_t.device)
    shown = hidden & (noise < hints.sees)
    asked = Places.of((where.where if isinstance(where, Places) else where) & ~shown)
    hinted = step.look(teacher, step.x_0.where(shown, x_t), None, asked, **more)
    if hints.limit is None:
        return hinted
    log_h = hinted.prediction.log_conditional
    plain = step.look(teacher, x_t, None, asked, **more).prediction
    gained = (log_h.exp() * (log_h - plain.log_conditional)).sum(-1, keepdim=True)
    share = (hints.limit / gained.clamp_min(1e-12)).clamp(1e-12, 1 - 1e-7)
    mixture = torch.logaddexp(log_h + share.log(), plain.log_conditional + (-share).log1p())
    return Local(type(hinted.prediction)(mixture), hinted.places, None)


def share_asked(hints: Hints | None) -> float:
    """The mean share of the masks that stay targets."""
    return 1.0 if hints is None else 1 - hints.sees
