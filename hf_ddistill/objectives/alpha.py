"""Alpha: a loss of all the masked tokens of a sequence together, without a teacher."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hf_ddistill.couplings import TrainingStep, random_masks
from hf_ddistill.denoisers import Denoiser
from hf_ddistill.objectives.blocks.states import masked
from hf_ddistill.objectives.defined_on import require_masks
from hf_ddistill.objectives.needs import Networks
from hf_ddistill.objectives.objective import Objective
from hf_ddistill.objectives.views import random_view
from hf_ddistill.shapes import Scalar


@dataclass(frozen=True)
class Alpha(Objective):
    """(1 - exp(k s)) / k with s the mean of log p^i(x_0 | x_t) over the m masked tokens of a
    sequence, or of each block of a student of blocks.

    Its gradient is that of the cross entropy times exp(k s): a completion counts as far as the
    student already holds it for likely *as a whole*, and where several exclude each other it
    settles for some. With a = k / m < 1 its optimum in one call has the marginals of

        argmin over pi of KL(pi || q_T) + a / (1 - a) TC(pi),   q_T ~ q^(1 / (1 - a))

    q the data's law given what is shown and TC the total correlation; from k = m on it is one
    likeliest completion. It takes away what a factorised student cannot draw, and with it coverage:
    look at the entropy. Of a student that has not learned the data yet exp(k s) is 0, and so is the
    gradient: start from one that has (`nelbo`, `bd3lm`, or sharpness 0).

    Args:
        sharpness: k; 0 is the mean cross entropy, a bound on the likelihood. The paper's: 8 from 8
            calls on, 16 for 4 calls, 32 for one; .4 to .8 by blocks of 4.
    """

    sharpness: float = 8.0
    id: ClassVar[str] = "alpha"
    networks: ClassVar[Networks] = {}
    citation: ClassVar[str] = "Gushchin, Baranchuk, Korotin, AlphaDLM, 2026, arXiv:2609.38066"
    measured: ClassVar[str] = (
        "exact digits under masks after 4,500 passes, TV .8667 / .8667 / .8667 at 1 / 2 / 4 calls "
        "(k of 8 is more than their 6 tokens: one sequence is left)"
    )

    def __post_init__(self) -> None:
        if not 0 <= self.sharpness < math.inf:
            raise ValueError(f"sharpness must be 0 or more, got {self.sharpness}.")

    @property
    def is_bound(self) -> bool:
        """At sharpness 0: the mean over 1 .. N masked tokens is the likelihood's bound."""
        return self.sharpness == 0

    def for_student(self, student: Denoiser) -> Alpha:
        require_masks(self.id, student.diffusion, "'nelbo' (maximum likelihood)")
        return self

    def __call__(self, step: TrainingStep) -> dict[str, Scalar]:
        mean, groups = self._mean_of_groups(step)
        weight = (self.sharpness * mean.detach()).exp()
        loss = -torch.expm1(self.sharpness * mean) / self.sharpness if self.sharpness else -mean
        count = groups.sum(1).clamp_min(1)
        step.log("cross_entropy", step.row_mean(-(mean.detach() * groups).sum(1) / count))
        step.log("weight", step.row_mean((weight * groups).sum(1) / count))
        return {"student": step.row_mean((loss * groups).sum(1) / count)}

    def _mean_of_groups(self, step: TrainingStep) -> tuple[Tensor, Tensor]:
        """s (B, G) of each sequence (G = 1) or block, and which of them have a masked token."""
        path = step.trajectory
        if path is None:
            view, size = random_view(step, step.x_0, step.trained), step.x_0.shape[1]
            where, local = view.where, step.look(step.student, view.z, view.t, view.where)
        else:
            size = path.block_size
            where = random_masks(step.x_0, path.drawn, size, step.generator)
            local = step.look(step.student, masked(step, where), None, where, clean_ids=step.x_0)
        log_p = local.per_token(local.log_prob_of(step.x_0)).unflatten(1, (-1, size)).sum(-1)
        count = where.unflatten(1, (-1, size)).sum(-1)
        return log_p / count.clamp_min(1), count > 0
