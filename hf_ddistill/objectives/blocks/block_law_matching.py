"""A block in one call: law matching between finished blocks and the next, with an autoregressive
teacher.

x the tokens that the student draws at the masks of a block, all in one call, each from its own pi
(given its noise input, if it has one); A the auxiliary, a causal language model trained on x:

    l_j = log p_T(x^j | blocks before, x^{<j}) - log p_A(x^j | blocks before, x^{<j})
    KL(p_S(block | blocks before) || p_T) = -E sum_j l_j

Without noise no student can be right: a call draws its tokens independently. With it the law of a
block is a mixture over the noise, which can be any law.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hf_ddistill.couplings import Local, TrainingStep, log_variety
from hf_ddistill.objectives.blocks.states import decoded, masked
from hf_ddistill.objectives.log_ratio import LogRatio, check_possible, log_ratio
from hf_ddistill.objectives.needs import Frozen, Networks, Trained
from hf_ddistill.objectives.objective import Objective
from hf_ddistill.parameterizations import log_prob_of
from hf_ddistill.shapes import LOG_ZERO, Scalar


@dataclass(frozen=True)
class BlockLawMatching(Objective):
    """Gradient of E KL(p_S(block | blocks before) || p_T(block | blocks before)) per token.

    -sum_i [ sum_c pi_i(c) (log p_T - log p_A)(c | x^{<i})
             + log pi_i(x^i) (sum over j > i of l_j, less its mean over the other draws) ]

    The first term sees all tokens c at once, since what is before i in the block does not hang on
    x^i; the second is what x^i does to the tokens behind it. Both together have no bias but the
    auxiliary's. All blocks of a row are trained in one call, each behind the data's own blocks.

    Args:
        draws: of each block from one prediction of the student, at least 2: each is the others'
            baseline. Each costs a call of teacher and auxiliary.
    """

    draws: int = 2
    id: ClassVar[str] = "block_law_matching"
    networks: ClassVar[Networks] = {"teacher": Frozen(), "auxiliary": Trained(copy_of="teacher")}
    one_call: ClassVar[bool] = True
    citation: ClassVar[str] = "hf_ddistill, Law matching of few-step discrete diffusion, 2026"

    def __post_init__(self) -> None:
        if self.draws < 2:
            raise ValueError(f"draws must be at least 2 (others are a baseline), got {self.draws}.")

    def __call__(self, step: TrainingStep) -> dict[str, Scalar]:
        path = decoded(step, self.id)
        where, size = path.drawn, path.block_size
        x_t = masked(step, where)
        learns = "student" in step.train
        with torch.set_grad_enabled(learns and torch.is_grad_enabled()):
            student = step.look(step.student, x_t, None, where, clean_ids=step.x_0, block_size=size)
        log_pi = student.prediction.log_conditional.squeeze(1).double()
        seen = [self.draw(step, student, log_pi, size) for _ in range(self.draws)]
        gained = torch.stack([d.ratio.of_tokens.sum() for d in seen]).mean()
        step.log("reward", gained / where.sum())
        losses = {}
        if learns:
            losses["student"] = self._student_loss(log_pi, seen)
        if "auxiliary" in step.train:
            losses["auxiliary"] = -torch.stack([d.of_auxiliary for d in seen]).mean()
            step.log("entropy", losses["auxiliary"])
        return losses

    def draw(self, step: TrainingStep, student: Local, log_pi: Tensor, size: int) -> Draw:
        """One draw of all N masks from the student's prediction, log_pi (N, K), in blocks of
        `size`, with the log-ratio there."""
        where = student.where
        tokens = step.draw(log_pi.detach().exp(), where)
        x = step.x_0.masked_scatter(where, tokens)
        log_variety(step, x, where)
        given = {"clean_ids": step.x_0, "block_size": size}
        ratio = log_ratio(step, x, x, None, where, causal=True, **given)
        check_possible(ratio)
        blocks = ratio.of_tokens.unflatten(1, (-1, size))
        later = (blocks.sum(-1, keepdim=True) - blocks.cumsum(-1)).flatten(1)[where]
        return Draw(tokens, ratio, later, ratio.auxiliary.log_prob_of(x).mean())

    def _student_loss(self, log_pi: Tensor, seen: list[Draw]) -> Scalar:
        mean = torch.stack([d.later for d in seen]).mean(0)
        possible = log_pi > LOG_ZERO / 2
        loss = torch.zeros((), dtype=torch.float64, device=log_pi.device)
        for d in seen:
            alike = torch.where(possible, log_pi.exp() * d.ratio.difference, 0.0)
            # Less the mean of the others: n / (n - 1) (later - mean of all).
            advantage = (d.later - mean) * len(seen) / (len(seen) - 1)
            chosen = log_prob_of(log_pi, d.tokens)
            loss = loss - alike.sum() - (advantage * chosen).sum()
        return loss / len(seen) / len(log_pi)


@dataclass(frozen=True)
class Draw:
    """One draw of all N masked tokens: the tokens (N,), the log-ratio there, the sum of l over what
    is later in the block (N,), the mean of log p_A of the tokens."""

    tokens: Tensor
    ratio: LogRatio
    later: Tensor
    of_auxiliary: Scalar
