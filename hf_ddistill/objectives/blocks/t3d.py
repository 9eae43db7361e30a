"""T3D: few-step decoding from a model's own full-step decoding, by telling the two apart.

y the teacher's tokens by full-step decoding, y' its likeliest tokens in one step from the same
state, l(.) the mean log-probability of the masked tokens of a row, ref the frozen teacher.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from hf_ddistill.configurable import settings_of
from hf_ddistill.couplings import Local, TrainingStep
from hf_ddistill.kinds import of_their_kinds
from hf_ddistill.linalg import categorical, uniform_noise
from hf_ddistill.linalg.likeliest import likeliest
from hf_ddistill.objectives.blocks.states import decoded, masked, ranks_in_blocks
from hf_ddistill.objectives.by_position import by_position
from hf_ddistill.objectives.objective import Objective
from hf_ddistill.objectives.rollouts import Rollouts
from hf_ddistill.shapes import Scalar, Where

ORDERS = ("first", "last", "random")


@dataclass(frozen=True)
class DecidedMasks:
    """Which of the tokens of a block are masked, by the order that they were decided in.

    Args:
        order: those that were decided "first" (the released code), those decided "last" (the states
            that decoding goes through), or "random" ones.
        ratios: of a block's tokens, one drawn for each row with probability proportional to
            ratio^exponent.
        exponent: the released code's 8: nearly always all of them.

    Raises:
        ValueError: for an unknown order, or ratios out of range.
    """

    order: str = "first"
    ratios: Sequence[float] = (1.0, 0.75, 0.5, 0.25)
    exponent: float = 8.0

    @of_their_kinds
    def __post_init__(self) -> None:
        object.__setattr__(self, "ratios", tuple(self.ratios))
        if not self.ratios or not all(0 < ratio <= 1 for ratio in self.ratios):
            raise ValueError(f"masks.ratios must lie in (0, 1], got {self.ratios}.")
        if self.order not in ORDERS:
            raise ValueError(f"Unknown masks.order {self.order!r}; there are: {', '.join(ORDERS)}.")

    def draw(self, step: TrainingStep, rank: Tensor) -> Where:
        """(B, L), the masks.

        Args:
            step: with a trajectory.
            rank: (B, L), the place of each token in its block by when it was decided.
        """
        trajectory = step.trajectory
        size = trajectory.block_size
        ratios = torch.tensor(self.ratios, dtype=torch.float64, device=rank.device)
        weights = (ratios**self.exponent)[None].expand(len(rank), -1)
        ratio = ratios[categorical(weights / weights.sum(1, keepdim=True), step.generator)]
        if self.order == "random":
            noise = uniform_noise(rank.shape, step.generator, rank.device)
            rank = ranks_in_blocks(noise.masked_fill(~trajectory.drawn, -1.0), size)
        tokens = trajectory.drawn.unflatten(1, (-1, size)).sum(-1)
        count = (tokens * ratio[:, None]).floor().long()
        if self.order == "last":
            return trajectory.drawn & (rank >= trajectory.spread(tokens - count))
        return trajectory.drawn & (rank < trajectory.spread(count))


@dataclass(frozen=True)
class T3D(Objective):
    """Direct discriminative optimization: the ratio of student and reference is a classifier of
    the teacher's tokens and the student's own few-step ones.

        - log sigma(beta (l(y) - l_ref(y))) - alpha log(1 - sigma(beta (l(y') - l_ref(y'))))
        + path CE(y along the order of decoding)

    y are the teacher's ("real") tokens, y' the few-step ones. The last term is the mean over the
    steps of a decoding of `tokens_a_step` tokens each of the cross entropy of all tokens that are
    decided by then: what is decided early counts more. All from one call with clean blocks before
    each noisy one.

    The paper makes the student the new reference twice (`rounds` of the trainer). Its code also
    puts random tokens in place of a tenth of the masks, which is not done here.

    Args:
        rollouts: what the teacher decodes, see `Rollouts`.
        beta, alpha, path: the paper's 0.1, 0.5, 0.2.
        masks: which of a block's tokens are masked, see `DecidedMasks`.
        tokens_a_step: of the path.
    """

    rollouts: Rollouts | Mapping[str, Any] = Rollouts(by="teacher")
    beta: float = 0.1
    alpha: float = 0.5
    path: float = 0.2
    masks: DecidedMasks | Mapping[str, Any] = DecidedMasks()
    tokens_a_step: int = 4
    id: ClassVar[str] = "t3d"
    over: ClassVar[str] = "blocks"
    unit: ClassVar[str] = "row"
    citation: ClassVar[str] = (
        "Zhang et al., T3D: Few-Step Diffusion Language Models via Trajectory Self-Distillation "
        "with Direct Discriminative Optimization, 2026, arXiv:2602.12262"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        masks = settings_of(DecidedMasks, self.masks, "masks") or DecidedMasks()
        object.__setattr__(self, "masks", masks)
        if not self.beta > 0 or not min(self.alpha, self.path) >= 0:
            raise ValueError(
                "beta must be above 0, alpha and path at least 0, got "
                f"{self.beta}, {self.alpha} and {self.path}."
            )
        if self.tokens_a_step < 1:
            raise ValueError(f"tokens_a_step must be at least 1, got {self.tokens_a_step}.")

    def __call__(self, step: TrainingStep) -> dict[str, Scalar]:
        trajectory = decoded(step, self.id)
        rank = ranks_in_blocks(trajectory.rounds, trajectory.block_size)
        where = self.masks.draw(step, rank)
        x_t = masked(step, where)
        more = {"clean_ids": step.x_0, "block_size": trajectory.block_size}
        student = step.look(step.student, x_t, None, where, **more)
        with torch.no_grad():
            reference = step.look(step.peers["teacher"], x_t, None, student.places, **more)
        _, taken = likeliest(reference.prediction.log_conditional[:, 0])
        fake = student.places.put(taken, step.x_0)
        chosen = torch.stack([student.places.take(step.x_0), taken], -1)

        def both(some: slice, log_q: Tensor) -> Tensor:
            return log_q.gather(-1, chosen[some])

        gaps, said = {}, by_position(both, student.prediction.log_conditional).split(1, -1)
        for log_q, name, y in zip(said, ("real", "fake"), (step.x_0, fake), strict=True):
            gap = student.per_token(log_q - reference.log_prob_of(y)).sum(1)
            gaps[name] = gap / where.sum(1).clamp_min(1)
            step.log(f"gap_{name}", gaps[name].detach().mean())
        # log(1 - sigma(x)) = log sigma(-x)
        told_apart = logsigmoid(self.beta * gaps["real"])
        told_apart = told_apart + self.alpha * logsigmoid(-self.beta * gaps["fake"])
        losses = -told_apart
        same = (fake == step.x_0) & where
        step.log("same", same.double().sum() / where.sum().clamp_min(1))
        if self.path:
            losses = losses + self.path * self._path(step, student, said[0], rank)
        trained = step.lengths > 0
        return {"student": (losses * trained).sum() / trained.sum().clamp_min(1)}

    def _path(self, step: TrainingStep, student: Local, log_q: Tensor, rank: Tensor) -> Tensor:
        """The last term of each row, (B,), from log q (N, 1) of its tokens."""
        losses = student.per_token(-log_q)
        rank = rank.masked_fill(~student.where, -1)
        # A row of the last rank r takes this many steps before the one that decides all.
        last = rank.amax(1)
        steps = last // self.tokens_a_step
        total = losses.sum(1) / student.where.sum(1).clamp_min(1)
        for number in range(1, (step.trajectory.block_size - 1) // self.tokens_a_step + 1):
            early = student.where & (rank < number * self.tokens_a_step)
            mean = (losses * early).sum(1) / early.sum(1).clamp_min(1)
            total = total + mean * (number <= steps)
        return total / (steps.clamp_min(0) + 1)
