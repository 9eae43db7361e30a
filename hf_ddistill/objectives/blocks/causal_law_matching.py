"""Law matching with an autoregressive teacher, whose log-likelihood is exact.

x_0 what the student wrote; p_S, p_T laws of x_0 under its decoder and under the teacher; A the
auxiliary, a causal language model trained on x_0, whose law p_A is normalised and, once it has
learnt, that of the student:

    l_j = log p_T(x^j | x^{<j}) - log p_A(x^j | x^{<j}),   KL(p_S || p_T) = -E sum_j l_j

No random maskings and no bounds: sums of l are log-ratios of laws. A token is decided at a call r
of its block, and pi is its probability there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from hf_ddistill.couplings import TrainingStep, Trajectory
from hf_ddistill.objectives.blocks.states import masked
from hf_ddistill.objectives.log_ratio import LogRatio, check_possible, log_ratio
from hf_ddistill.objectives.needs import Frozen, Networks, Trained
from hf_ddistill.objectives.objective import Objective
from hf_ddistill.objectives.rollouts import Rollouts
from hf_ddistill.parameterizations import log_prob_of
from hf_ddistill.shapes import LOG_ZERO, PerToken, Scalar, Where
from hf_ddistill.unmasking import Static

CREDITS = ("token", "rollout")
CALLS = ("all", "one")


@dataclass(frozen=True)
class CausalLawMatching(Objective):
    """Policy gradient of KL(p_S || p_T) through a block decoder, with what each token can cause.

    -(sum over j in C(i) of l_j, less its mean over the other rows) log pi(x^i), summed over i

    C(i): j = i and all later j, and those earlier in the block that have a token decided after
    call r(i) at or before them. What was decided before a token, or in the same call, does not hang
    on it, so that leaving it out has no bias.

    It is unbiased for rules that choose positions without looking at the drawn tokens ("random",
    "left_to_right", "margin", "entropy"), on rollouts of the student as it is now. A rule that
    looks at the confidence of drawn tokens ("confidence", `Threshold`) makes the choice depend on
    draws that no rollout keeps, and ties the tokens of a call together: there the gradient is
    off, with `pathwise` beyond use (by .15 to .27 of its length without and 1.2 to 1.4 with it, one
    token a call, blocks of 4 and 2; see the tests).

    Args:
        rollouts: what the student decodes, see `Rollouts`: the mean is taken over the others of
            their `group`, where it is above 1, else over all rows.
        credit: "token", or "rollout" for all of sum l_j at each token (more variance).
        pathwise: l_i itself, where all tokens before i were decided no later than it, by its mean
            over all tokens, -sum_c pi(c) (log p_T - log p_A)(c | x^{<i}), instead of by the one
            drawn: the same gradient, less variance. Only for rules that do not look at the drawn
            tokens.
        calls: recompute pi at "all" calls of the blocks, one network call for each, or at "one"
            random call of each block, whose terms count as often as the block has calls.
    """

    rollouts: Rollouts | Mapping[str, Any] = Rollouts(unmasking=Static("entropy"))
    credit: str = "token"
    pathwise: bool = False
    calls: str = "all"
    id: ClassVar[str] = "causal_law_matching"
    networks: ClassVar[Networks] = {"teacher": Frozen(), "auxiliary": Trained(copy_of="teacher")}
    citation: ClassVar[str] = "hf_ddistill, Law matching of few-step discrete diffusion, 2026"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, known in (("credit", CREDITS), ("calls", CALLS)):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"Unknown {name} {getattr(self, name)!r}; there are: {', '.join(known)}."
                )
        rule, updates = self.rollouts.unmasking, self.rollouts.updates
        if self.pathwise and rule.reads_tokens:
            raise ValueError(
                "pathwise=True is defined for rules that choose positions without looking at the "
                f"drawn tokens, and {rule.id!r} looks at them; take the rule 'static' with the "
                "score 'entropy' in rollouts.unmasking, or leave pathwise out."
            )
        if updates > 1:
            raise ValueError(
                "The gradient has no ratio for rollouts of a student that has moved since: "
                f"rollouts.updates must be 1, got {updates}."
            )
        if self.rollouts.temperature != 1:
            raise ValueError(
                "The law that is matched is that of the student at temperature 1: "
                f"rollouts.temperature must be 1, got {self.rollouts.temperature}."
            )

    def __call__(self, step: TrainingStep) -> dict[str, Scalar]:
        trajectory = self._checked(step)
        where = trajectory.drawn
        ratio = log_ratio(step, step.x_0, step.x_0, None, where, causal=True)
        entropy = -ratio.auxiliary.log_prob_of(step.x_0).sum() / where.sum()
        step.log("entropy", entropy)
        losses = {}
        if "student" in step.train:
            losses["student"] = self._student_loss(step, trajectory, ratio)
        if "auxiliary" in step.train:
            losses["auxiliary"] = entropy
        return losses

    def _checked(self, step: TrainingStep) -> Trajectory:
        if step.trajectory is None:
            raise ValueError(
                "causal_law_matching is trained on the student's own rollouts, and this step has "
                "data: it has no trajectory."
            )
        if not bool(step.trajectory.drawn.any()):
            raise ValueError("The rollouts are empty: no token of the batch was decoded.")
        if len(step.x_0) % self.rollouts.group:
            raise ValueError(
                f"{len(step.x_0)} rows are no whole number of groups of {self.rollouts.group}."
            )
        return step.trajectory

    def _student_loss(self, step: TrainingStep, trajectory: Trajectory, ratio: LogRatio) -> Scalar:
        check_possible(ratio)
        where, ratios = trajectory.drawn, ratio.of_tokens
        step.log("reward", ratios.sum() / where.sum())
        own = alone(trajectory) if self.pathwise else torch.zeros_like(where)
        credits = self._credits(trajectory, ratios, own)
        centred = credits if step.held_out else self._centred(credits, where)
        advantages = torch.where(where, centred, torch.zeros_like(credits))
        loss = torch.zeros((), dtype=torch.float64, device=where.device)
        for at, weight in self._looked_at(step, trajectory):
            x_t = masked(step, trajectory.at(at))
            asked = where & (trajectory.rounds == trajectory.spread(at))
            size = trajectory.block_size
            here = step.look(step.student, x_t, None, asked, clean_ids=step.x_0, block_size=size)
            log_p = here.log_conditional_at(asked).double()
            weight = trajectory.spread(weight)[asked]
            chosen = log_prob_of(log_p, step.x_0[asked])
            loss = loss - (weight * advantages[asked] * chosen).sum()
            by_mean = own[asked]
            mean = (log_p.exp() * ratio.difference[asked[where]])[by_mean].masked_fill(
                log_p[by_mean] < LOG_ZERO / 2, 0.0
            )
            loss = loss - (weight[by_mean] * mean.sum(-1)).sum()
        return loss / where.sum()

    def _credits(self, trajectory: Trajectory, ratios: PerToken, own: Where) -> PerToken:
        """What each token is credited with, (B, L)."""
        if self.credit == "rollout":
            return ratios.sum(1, keepdim=True) - torch.where(own, ratios, 0.0)
        return caused(trajectory, ratios) - torch.where(own, ratios, 0.0)

    def _centred(self, credits: PerToken, where: Where) -> PerToken:
        """Less the mean of the other rows of the group at the same position."""
        size = self.rollouts.group if self.rollouts.group > 1 else len(credits)
        values = torch.where(where, credits, 0.0).unflatten(0, (-1, size))
        count = where.unflatten(0, (-1, size)).sum(1, keepdim=True)
        others = (values.sum(1, keepdim=True) - values) / (count - 1).clamp_min(1)
        return (values - others).flatten(0, 1)

    def _looked_at(
        self, step: TrainingStep, trajectory: Trajectory
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Numbers of calls, and what their terms count, each (B, L / b)."""
        calls = trajectory.calls
        if self.calls == "one":
            yield trajectory.any_call(step.generator), calls
            return
        for number in range(int(calls.max())):
            yield torch.full_like(calls, number), torch.ones_like(calls)


def alone(trajectory: Trajectory) -> Where:
    """(B, L), the tokens before which every token was decided in the same call or earlier."""
    latest = _latest(trajectory)
    before = latest.roll(1, -1)
    before[..., 0] = -1
    return trajectory.drawn & (before <= trajectory.rounds.unflatten(1, latest.shape[1:])).flatten(
        1
    )


def caused(trajectory: Trajectory, values: PerToken) -> PerToken:
    """The sum over C(i) of `values` (B, L), which are functions of the tokens up to their own:
    what token i, decided in its call, can still change."""
    latest = _latest(trajectory)
    rounds = trajectory.rounds.unflatten(1, latest.shape[1:])
    blocks = values.unflatten(1, latest.shape[1:])
    place = torch.arange(trajectory.block_size, device=values.device)
    later = place[None, :] >= place[:, None]
    within = later | (latest[..., None, :] > rounds[..., :, None])
    of_block = (within * blocks[..., None, :]).sum(-1)
    total = blocks.sum(-1)
    after = total.flip(1).cumsum(1).flip(1) - total
    return (of_block + after[..., None]).flatten(1)


def _latest(trajectory: Trajectory) -> Tensor:
    """(B, L / b, b), the latest call that decided a token of the block up to each one."""
    return trajectory.rounds.unflatten(1, (-1, trajectory.block_size)).cummax(-1).values
