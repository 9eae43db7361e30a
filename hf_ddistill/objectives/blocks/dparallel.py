"""dParallel: tokens that a diffusion language model gets right, it is to be sure of early."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from hf_ddistill.couplings import TrainingStep
from hf_ddistill.linalg import uniform_noise
from hf_ddistill.linalg.likeliest import likeliest
from hf_ddistill.objectives.blocks.states import (
    active_block,
    busy_blocks,
    divided,
    masked,
)
from hf_ddistill.objectives.by_position import by_position
from hf_ddistill.objectives.objective import Objective
from hf_ddistill.objectives.rollouts import Rollouts
from hf_ddistill.places import places_of
from hf_ddistill.shapes import Scalar


@dataclass(frozen=True)
class DParallel(Objective):
    """Certainty forcing: a student that is right about what the teacher decoded becomes sure.

    With y what the teacher decoded,

        CE(y) + beta mean over {i masked: argmax p_S^i = y^i} of H(softmax(log p_S^i / T))

    The states are those of semi-autoregressive decoding: the blocks before a random one are y, half
    of its tokens are masked, all after it are; the loss is of the masks in that block. A second
    state has the other half masked, so that each token is once a target. The two count half each
    (in the released code one each). Of a row the cross entropy is a sum over the mean number of
    targets, H a mean over those that are right; rows count by their tokens.

    Args:
        rollouts: what the teacher decodes, see `Rollouts`.
        certainty: beta.
        temperature: T of the entropy, below 1: what is far from sure weighs more.
        mask_share: share of the block that is masked in the first state.
        block_size: of the states (the paper's is 32); that of the decoding if None, and all of a
            row without one.
        every_block: one call with clean blocks before each noisy one trains all blocks at once.
            Only for block-causal students: one with full attention must see masks behind.
    """

    rollouts: Rollouts | Mapping[str, Any] = Rollouts(by="teacher")
    certainty: float = 2.0
    temperature: float = 0.5
    mask_share: float = 0.5
    block_size: int | None = None
    every_block: bool = False
    id: ClassVar[str] = "dparallel"
    over: ClassVar[str] = "blocks"
    citation: ClassVar[str] = (
        "Chen et al., dParallel: Learnable Parallel Decoding for dLLMs, 2025, arXiv:2509.26488"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.block_size is not None and self.block_size < 1:
            raise ValueError(f"block_size must be at least 1, or None, got {self.block_size}.")
        if not self.certainty >= 0:
            raise ValueError(f"certainty must be at least 0, got {self.certainty}.")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be above 0, got {self.temperature}.")
        if not 0 < self.mask_share < 1:
            raise ValueError(f"mask_share must lie strictly in (0, 1), got {self.mask_share}.")

    def __call__(self, step: TrainingStep) -> dict[str, Scalar]:
        own = step.x_0.shape[1] if step.trajectory is None else step.trajectory.block_size
        size = own if self.block_size is None else self.block_size
        divided(step, size)
        active, later = step.trained, torch.zeros_like(step.x_0, dtype=torch.bool)
        more = {"clean_ids": step.x_0, "block_size": size}
        blocks = torch.ones_like(step.lengths)
        if not self.every_block:
            blocks = busy_blocks(active, size)
            active, later = active_block(active, size, step.generator)
            more = {}
        noise = uniform_noise(step.x_0.shape, step.generator, step.x_0.device)
        first = active & (noise < self.mask_share)
        parts, halves = [], places_of(first, active & ~first)
        for places, share in zip(halves, (self.mask_share, 1 - self.mask_share), strict=True):
            x_t = masked(step, places.where | later)
            local = step.look(step.student, x_t, None, places, **more)
            log_p, tokens = local.prediction.log_conditional, local.places.take(step.x_0)
            said = local.per_token(local.log_prob_of(step.x_0)).sum(1)
            # One block stands for all of a row's.
            cross_entropy = -step.token_mean(said * blocks) / share
            of_rows = (local.rows, len(said))
            entropy, found = entropy_where_right(log_p, tokens, self.temperature, *of_rows)
            right = (found * places.where.sum(1)).sum() / max(len(tokens), 1)
            parts.append(torch.stack([cross_entropy, step.row_mean(entropy), right.to(entropy)]))
        cross_entropy, entropy, right = torch.stack(parts).mean(0)
        step.log("cross_entropy", cross_entropy)
        step.log("right", right)
        step.log("entropy_where_right", entropy)
        return {"student": cross_entropy + self.certainty * entropy}


def entropy_where_right(
    log_p: Tensor,
    tokens: Tensor,
    temperature: float,
    rows: Tensor | None = None,
    number: int = 1,
) -> tuple[Tensor, Tensor]:
    """Of each row the mean entropy of softmax(log p / T) over the positions whose likeliest token
    is the true one, 0 if there is none; and their share of its positions.

    Args:
        log_p: (N, K) or (N, 1, K).
        tokens: (N,), the true ones.
        temperature: T.
        rows: (N,), the row that each position is in; None for one row, and two scalars.
        number: of rows.
    """
    right = likeliest(log_p.detach().flatten(0, -2))[1] == tokens

    def entropy_of(_: slice, log_p: Tensor) -> Tensor:
        sharper = (log_p / temperature).log_softmax(-1)
        return -(sharper.exp() * sharper).sum(-1)

    entropy = by_position(entropy_of, log_p)
    at = torch.zeros_like(tokens) if rows is None else rows

    def sums(values: Tensor) -> Tensor:
        return values.new_zeros(number).index_add(0, at, values)

    count = sums(right.double())
    mean = sums(entropy * right) / count.to(entropy).clamp_min(1)
    share = count / sums(torch.ones_like(tokens)).clamp_min(1)
    return (mean[0], share[0]) if rows is None else (mean, share)
