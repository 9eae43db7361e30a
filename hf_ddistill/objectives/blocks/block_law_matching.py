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

from hf_ddistill.couplings import Local, TrainingStep, record_variety
from hf_ddistill.denoisers import Autoregressive
from hf_ddistill.objectives.blocks.states import all_noise, decoded, masked
from hf_ddistill.objectives.needs import Frozen, Networks, Trained
from hf_ddistill.objectives.objective import Objective
from hf_ddistill.shapes import LOG_ZERO, PerToken, Scalar, Tokens


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
        entropy_bonus: b; the student aims at p_T^(1 / (1 + b)), normalised.
    """

    draws: int = 2
    entropy_bonus: float = 0.0
    id: ClassVar[str] = "block_law_matching"
    networks: ClassVar[Networks] = {"teacher": Frozen(), "auxiliary": Trained(copy_of="teacher")}
    one_call: ClassVar[bool] = True
    citation: ClassVar[str] = "hf_ddistill, Law matching of few-step discrete diffusion, 2026"

    def __post_init__(self) -> None:
        if self.draws < 2:
            raise ValueError(f"draws must be at least 2 (others are a baseline), got {self.draws}.")
        if not self.entropy_bonus >= 0:
            raise ValueError(f"entropy_bonus must be at least 0, got {self.entropy_bonus}.")

    def __call__(self, step: TrainingStep) -> dict[str, Scalar]:
        if "auxiliary" not in step.peers:
            raise ValueError(
                "block_law_matching needs the trainable peer 'auxiliary', a copy of the teacher; "
                f"got the peers {sorted(step.peers)}."
            )
        path = decoded(step, self.id)
        where, size = path.drawn, path.block_size
        x_t = masked(step, where)
        learns = "student" in step.train
        with torch.set_grad_enabled(learns and torch.is_grad_enabled()):
            student = step.look(
                step.student, x_t, all_noise(x_t), where, clean_ids=step.x_0, block_size=size
            )
        log_pi = student.prediction.log_conditional[:, 0].double()
        seen = [self._draw(step, student, log_pi, size) for _ in range(self.draws)]
        step.record["reward"] = torch.stack([d.ratios.sum() for d in seen]).mean() / where.sum()
        losses = {}
        if learns:
            losses["student"] = self._student_loss(log_pi, seen)
        if "auxiliary" in step.train:
            losses["auxiliary"] = -torch.stack([d.of_auxiliary.mean() for d in seen]).mean()
            step.record["entropy"] = losses["auxiliary"].detach()
        return losses

    def _draw(self, step: TrainingStep, student: Local, log_pi: Tensor, size: int) -> _Drawn:
        where = student.where
        tokens = step.draw(log_pi.detach().exp(), where)
        x = step.x_0.masked_scatter(where, tokens)
        record_variety(step, x, where)
        with torch.no_grad():
            log_t = _causal(step, "teacher", x, student, size)
        with torch.set_grad_enabled("auxiliary" in step.train and torch.is_grad_enabled()):
            log_a = _causal(step, "auxiliary", x, student, size)
        difference = (log_t - (1 + self.entropy_bonus) * log_a.detach()).double()
        own = difference.gather(-1, tokens[:, None])[:, 0]
        if not bool((own.abs() < -LOG_ZERO / 2).all()):
            raise ValueError(
                "The teacher gives no probability to a token that the student drew, so that its "
                "log-ratio is not finite; let the student start from the teacher."
            )
        ratios = student.per_token(own[:, None])
        blocks = ratios.unflatten(1, (-1, size))
        later = (blocks.sum(-1, keepdim=True) - blocks.cumsum(-1)).flatten(1)[where]
        of_auxiliary = log_a.gather(-1, tokens[:, None])[:, 0]
        return _Drawn(tokens, difference, ratios, later, of_auxiliary)

    def _student_loss(self, log_pi: Tensor, seen: list[_Drawn]) -> Scalar:
        mean = torch.stack([d.later for d in seen]).mean(0)
        possible = log_pi > LOG_ZERO / 2
        loss = torch.zeros((), dtype=torch.float64, device=log_pi.device)
        for d in seen:
            alike = torch.where(possible, log_pi.exp() * d.difference, 0.0)
            # Less the mean of the others: n / (n - 1) (later - mean of all).
            advantage = (d.later - mean) * len(seen) / (len(seen) - 1)
            chosen = log_pi.gather(-1, d.tokens[:, None])[:, 0]
            loss = loss - alike.sum() - (advantage * chosen).sum()
        return loss / len(seen) / len(log_pi)


@dataclass(frozen=True)
class _Drawn:
    """One draw of all N masked tokens: the tokens (N,), log p_T - log p_A of every token (N, K), l
    (B, L), its sum over what is later in the block (N,), log p_A of the tokens (N,)."""

    tokens: Tensor
    difference: Tensor
    ratios: PerToken
    later: Tensor
    of_auxiliary: Tensor


def _causal(step: TrainingStep, peer: str, x: Tokens, student: Local, size: int) -> Tensor:
    """log p(. | clean blocks before, tokens of x before in the block), (N, K)."""
    given = {"clean_ids": step.x_0, "block_size": size}
    teacher = Autoregressive(step.peers[peer])
    local = step.look(teacher, x, all_noise(x), student.where, **given)
    return local.prediction.log_conditional[:, 0]
