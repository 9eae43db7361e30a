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
from hf_ddistill.kinds import check_most
from hf_ddistill.linalg import categorical_of_logs
from hf_ddistill.objectives.blocks.states import decoded, masked
from hf_ddistill.objectives.by_position import Last, by_position
from hf_ddistill.objectives.log_ratio import causal_log_ratio
from hf_ddistill.objectives.needs import Frozen, Networks, Trained
from hf_ddistill.objectives.objective import Objective
from hf_ddistill.places import Places
from hf_ddistill.shapes import LOG_ZERO, Scalar

#: Entries of a law from which on it is not kept for the way back: 32 MiB of float32. Asking again
#: costs a tenth of a step.
MUCH = 2**23


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
    over: ClassVar[str] = "blocks"
    networks: ClassVar[Networks] = {
        "teacher": Frozen(causal=True),
        "auxiliary": Trained(copy_of="teacher"),
    }
    one_call: ClassVar[bool] = True
    citation: ClassVar[str] = "hf_ddistill, Law matching of few-step discrete diffusion, 2026"

    def __post_init__(self) -> None:
        if self.draws < 2:
            raise ValueError(f"draws must be at least 2 (others are a baseline), got {self.draws}.")
        check_most(self, "draws")

    def __call__(self, step: TrainingStep) -> dict[str, Scalar]:
        path = decoded(step, self.id)
        where, size = Places.of(path.drawn), path.block_size
        x_t = masked(step, path.drawn)
        learns = "student" in step.train
        with torch.set_grad_enabled(learns and torch.is_grad_enabled()):
            student = step.look(step.student, x_t, None, where, clean_ids=step.x_0, block_size=size)
        log_pi = student.prediction.log_conditional.detach()[:, 0]
        difference = torch.zeros_like(log_pi) if learns else None
        # The laws of all draws at one time are one tensor of all logits more for each; where that
        # is much, all but the last are made once more on the way back.
        again = [log_pi.numel() > MUCH] * (self.draws - 1) + [False]
        seen = [self.draw(step, student, size, difference, each) for each in again]
        gained = torch.stack([draw.gained for draw in seen]).mean()
        step.log("reward", gained / len(where))
        losses = {}
        if learns:
            losses["student"] = self._student_loss(student, seen, difference)
        if "auxiliary" in step.train:
            losses["auxiliary"] = -torch.stack([draw.of_auxiliary for draw in seen]).mean()
            step.log("entropy", losses["auxiliary"])
            step.log("auxiliary_lag", torch.stack([draw.lag for draw in seen]).mean())
        return losses

    def draw(
        self,
        step: TrainingStep,
        student: Local,
        size: int,
        difference: Tensor | None = None,
        ask_again: bool = False,
    ) -> Draw:
        """One draw of all N masks from the student's prediction, in blocks of `size`; log p_T -
        log p_A there is added to `difference` (N, K). The auxiliary's law is kept for the way
        back, or it is asked again."""
        where, log_pi = student.places, student.prediction.log_conditional[:, 0]
        tokens = categorical_of_logs(log_pi, noise=step.numbers(where))
        x = where.put(tokens, step.x_0)
        log_variety(step, x, where.where)
        given = {"clean_ids": step.x_0, "block_size": size, "ask_again": ask_again}
        ratios, of_auxiliary, lag = causal_log_ratio(step, x, where, difference, **given)
        blocks = ratios.unflatten(1, (-1, size))
        later = where.take((blocks.sum(-1, keepdim=True) - blocks.cumsum(-1)).flatten(1))
        return Draw(tokens, later, ratios.sum(), of_auxiliary.mean(), lag)

    def _student_loss(self, student: Local, seen: list[Draw], difference: Tensor) -> Scalar:
        """From the sum over draws of log p_T - log p_A, (N, K)."""
        tokens, later = (
            torch.stack([getattr(d, n) for d in seen], -1) for n in ("tokens", "later")
        )
        # Less the mean of the others: n / (n - 1) (later - mean of all).
        advantage = (later - later.mean(-1, keepdim=True)) * len(seen) / (len(seen) - 1)

        def gained(some: slice, log_pi: Tensor, difference: Tensor) -> Tensor:
            log_pi = log_pi.double()
            alike = torch.where(log_pi > LOG_ZERO / 2, log_pi.exp() * difference[some], 0.0)
            chosen = log_pi.gather(-1, tokens[some])
            return alike.sum(-1) + (advantage[some] * chosen).sum(-1)

        values = by_position(gained, Last(student.prediction.log_conditional), of=(difference,))
        return -values.sum() / len(seen) / len(values)


@dataclass(frozen=True)
class Draw:
    """One draw of all N masked tokens: the tokens (N,), the sum of l over what is later in the
    block (N,), that over all, the mean of log p_A of the tokens, the auxiliary's lag."""

    tokens: Tensor
    later: Tensor
    gained: Scalar
    of_auxiliary: Scalar
    lag: Scalar
