"""CDLM: consistency of a block-causal student along the decoding of a teacher.

y a state in the decoding of one block, y* the state where it is finished; later blocks are masks in
both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from hf_ddistill.configurable import settings_of
from hf_ddistill.couplings import Local, TrainingStep, random_masks
from hf_ddistill.divergences import ForwardKL
from hf_ddistill.linalg import uniform_noise
from hf_ddistill.objectives.blocks.distance import distance_of
from hf_ddistill.objectives.blocks.hints import Hints, informed_teacher, share_asked
from hf_ddistill.objectives.blocks.states import (
    active_block,
    decoded,
    masked,
    mean_of_blocks,
)
from hf_ddistill.objectives.objective import Objective
from hf_ddistill.objectives.rollouts import Rollouts
from hf_ddistill.places import Places, places_of
from hf_ddistill.shapes import Scalar


@dataclass(frozen=True)
class CDLM(Objective):
    """distil KL(p_T || q(. | y)) on the tokens that y* has and y has not, p_T being the teacher's
    at the call that decided the token;
    + consistency KL(stop-gradient q(. | y*) || q(. | y)) on those that both still mask;
    + masked_lm (- log q(x_0 | x_t), weighted to the likelihood bound).

    Each of the three is a mean over its own tokens: in each row their sum over the mean of their
    number, and rows count by their decoded tokens. The consistency alone is at its least for a
    student that does not look at its input, and collapses, as the paper reports; the first term
    ties it to the teacher, which looks at what its own attention lets it see: at all, in the paper.

    Args:
        rollouts: what the teacher decodes, see `Rollouts`.
        distil, consistency, masked_lm: weights; the paper's (LLaDA: masked_lm=0.1).
        block_size: of the student, where it is not that of the decoding: of a teacher with full
            attention that decodes all as one block.
        hints: what the teacher alone is shown, see `Hints`; None for nothing.
    """

    rollouts: Rollouts | Mapping[str, Any] = Rollouts(by="teacher")
    distil: float = 1.0
    consistency: float = 0.5
    masked_lm: float = 0.01
    block_size: int | None = None
    hints: Hints | Mapping[str, Any] | None = None
    id: ClassVar[str] = "cdlm"
    over: ClassVar[str] = "blocks"
    citation: ClassVar[str] = (
        "Kim et al., CDLM: Consistency Diffusion Language Models for Faster Sampling, 2025, "
        "arXiv:2511.19269"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.block_size is not None and self.block_size < 1:
            raise ValueError(f"block_size must be at least 1, or None, got {self.block_size}.")
        for name in ("distil", "consistency", "masked_lm"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}.")
        if not self.distil + self.consistency + self.masked_lm:
            raise ValueError("distil, consistency and masked_lm are all 0: nothing is trained.")
        object.__setattr__(self, "hints", settings_of(Hints, self.hints, "hints"))

    def __call__(self, step: TrainingStep) -> dict[str, Scalar]:
        trajectory = decoded(step, self.id, self.block_size)
        step = replace(step, trajectory=trajectory)
        size = trajectory.block_size
        active, later = active_block(trajectory.drawn, size, step.generator)
        number = trajectory.any_call(step.generator)
        # Of the calls between y and y* a random one (the paper stores hidden states of all).
        left = trajectory.calls - number
        noise = uniform_noise(number.shape, step.generator, number.device)
        call = number + (noise * left).long().minimum((left - 1).clamp_min(0))
        here = active & (trajectory.rounds == trajectory.spread(call))
        some = random_masks(step.x_0, trajectory.drawn, size, step.generator)
        asked = (trajectory.at(number) & active) | later
        asked, here, behind, some = places_of(asked, here, later, some)
        q = step.look(step.student, masked(step, asked.where), None, asked, block_size=size)
        terms = {}
        if self.distil:
            state = masked(step, (trajectory.at(call) & active) | later)
            p = informed_teacher(step, state, here, self.hints)
            terms["distil"] = self._distil(step, q, p, left)
        if self.consistency:
            terms["consistency"] = self._consistency(step, q, behind)
        if self.masked_lm:
            terms["masked_lm"] = self._masked_lm(step, some)
        for name, term in terms.items():
            step.log(name, term)
        total = [getattr(self, name) * term for name, term in terms.items()]
        return {"student": torch.stack(total).sum()}

    def _distil(self, step: TrainingStep, q: Local, p: Local, left: Tensor) -> Scalar:
        """With what the teacher says at one of the `left` (B, L / b) calls of a block."""
        trajectory = step.trajectory
        distance = distance_of(ForwardKL(), p, q)
        # It stands for all that are left of its block.
        weight = p.places.take(trajectory.spread(left)).to(distance)
        total = p.per_token((weight * distance)[:, None]).sum(1)
        # Before a call that is as likely as others, r + 1 of n calls find a token of call r masked.
        shares = (trajectory.rounds + 1) / trajectory.spread(trajectory.calls).clamp_min(1)
        expected = share_asked(self.hints) * mean_of_blocks(step, shares)
        return step.row_mean(total / expected.clamp_min(1e-9))

    def _consistency(self, step: TrainingStep, q: Local, later: Places) -> Scalar:
        done = masked(step, later.where)
        with torch.no_grad():
            size = step.trajectory.block_size
            ahead = step.look(step.student, done, None, later, block_size=size)
        distance = distance_of(ForwardKL(), ahead, q)
        blocks = step.trajectory.drawn.unflatten(1, (-1, step.trajectory.block_size)).sum(-1)
        behind = step.trajectory.spread(blocks.sum(1, keepdim=True) - blocks.cumsum(1))
        # What is behind a block counts once for it, whatever its own number of tokens.
        own = step.trajectory.spread(blocks).clamp_min(1)
        expected = mean_of_blocks(step, behind / own)
        return step.row_mean(ahead.per_token(distance[:, None]).sum(1) / expected.clamp_min(1e-9))

    def _masked_lm(self, step: TrainingStep, places: Places) -> Scalar:
        trajectory, where = step.trajectory, places.where
        size = trajectory.block_size
        x_t = masked(step, where)
        local = step.look(step.student, x_t, None, places, clean_ids=step.x_0, block_size=size)
        log_q = local.log_prob_of(step.x_0)[:, 0]
        counts = [w.unflatten(1, (-1, size)).sum(-1) for w in (trajectory.drawn, where)]
        weight = local.places.take(trajectory.spread(counts[0] / counts[1].clamp_min(1)))
        return -step.token_mean(weight.to(log_q) * log_q)
