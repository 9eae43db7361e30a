"""Law matching with an autoregressive teacher, whose log-likelihood is exact.

x_0 what the student wrote; p_S, p_T laws of x_0 under its decoder and under the teacher; A the
auxiliary, a causal language model trained on x_0, whose law p_A is normalised and, once it has
learnt, that of the student:

    l_j = log p_T(x^j | x^{<j}) - log p_A(x^j | x^{<j}),   KL(p_S || p_T) = -E sum_j l_j

No random maskings and no bounds: sums of l are log-ratios of laws. A token is decided at a call r
of its block, and pi is its probability there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from hf_ddistill.couplings import Local, TrainingStep, Trajectory
from hf_ddistill.objectives.blocks.states import masked
from hf_ddistill.objectives.by_position import by_position
from hf_ddistill.objectives.log_ratio import LogRatio, auxiliary_lag, check_possible, log_ratio
from hf_ddistill.objectives.needs import Frozen, Networks, Trained
from hf_ddistill.objectives.objective import Objective
from hf_ddistill.objectives.rollouts import Rollouts
from hf_ddistill.parameterizations import log_prob_of
from hf_ddistill.places import Places, places_of
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
    over: ClassVar[str] = "blocks"
    networks: ClassVar[Networks] = {
        "teacher": Frozen(causal=True),
        "auxiliary": Trained(copy_of="teacher"),
    }
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
        self._check(step)
        where, calls = self._looked_at(step)
        ratio = log_ratio(step, step.x_0, step.x_0, None, where, causal=True)
        entropy = -ratio.log_prob_of_auxiliary.sum() / len(where)
        step.log("entropy", entropy)
        losses = {}
        if "student" in step.train:
            losses["student"] = self._student_loss(step, calls, ratio)
        if "auxiliary" in step.train:
            losses["auxiliary"] = entropy
            step.log("auxiliary_lag", auxiliary_lag(ratio.auxiliary, -ratio.log_prob_of_auxiliary))
        return losses

    def _check(self, step: TrainingStep) -> None:
        if step.trajectory is None:
            raise ValueError(
                "causal_law_matching is trained on the student's own rollouts, and this step has "
                "data: it has no trajectory."
            )
        if len(step.x_0) % self.rollouts.group:
            raise ValueError(
                f"{len(step.x_0)} rows are no whole number of groups of {self.rollouts.group}."
            )

    def _student_loss(self, step: TrainingStep, calls: list[Call], ratio: LogRatio) -> Scalar:
        check_possible(ratio)
        trajectory, ratios, where = step.trajectory, ratio.of_tokens, step.trajectory.drawn
        total = len(ratio.teacher.places)
        step.log("reward", ratios.sum() / total)
        own = alone(trajectory) if self.pathwise else torch.zeros_like(where)
        credits = self._credits(trajectory, ratios, own)
        centred = credits if step.held_out else self._centred(credits, where)
        more = {"clean_ids": step.x_0, "block_size": trajectory.block_size}
        loss = torch.zeros((), dtype=torch.float64, device=where.device)
        for call in calls:
            x_t = masked(step, trajectory.at(call.number))
            here = step.look(step.student, x_t, None, call.places, **more)
            about = (step.x_0, centred, own, trajectory.spread(call.weight))
            loss = loss - self._gained(here, ratio, *map(here.places.take, about))
        return loss / total

    def _gained(
        self, here: Local, ratio: LogRatio, tokens: Tensor, credit: Tensor, own: Tensor, w: Tensor
    ) -> Scalar:
        """The sum over the positions of a call of w times what each of them gains."""
        if not self.pathwise:
            log_p = log_prob_of(here.prediction.log_conditional[:, 0], tokens).double()
            return (w * credit * log_p).sum()
        there = ratio.teacher.numbers_of(here.places)

        def gained(some: slice, log_p: Tensor, teacher: Tensor, auxiliary: Tensor) -> Tensor:
            log_p, at = log_p.double(), there[some]
            d = teacher.index_select(0, at).sub_(auxiliary.index_select(0, at))
            mean = torch.where(log_p < LOG_ZERO / 2, 0.0, log_p.exp() * d).sum(-1)
            return credit[some] * log_prob_of(log_p, tokens[some]) + own[some] * mean

        return (w * by_position(gained, here.prediction.log_conditional, of=ratio.laws)).sum()

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

    def _looked_at(self, step: TrainingStep) -> tuple[Places, list[Call]]:
        """Where tokens were decided, and the calls that are looked at."""
        trajectory, calls = step.trajectory, step.trajectory.calls
        if self.calls == "one":
            number = trajectory.any_call(step.generator)
            here = trajectory.drawn & (trajectory.rounds == trajectory.spread(number))
            where, here = places_of(trajectory.drawn, here)
            return where, [Call(number, here, calls)]
        places = trajectory.places(step.most)
        where = Places.of(trajectory.drawn, sum(map(len, places)))
        each = (torch.full_like(calls, number) for number in range(len(places)))
        one = torch.ones_like(calls)
        return where, [Call(*about, one) for about in zip(each, places, strict=True)]


@dataclass(frozen=True)
class Call:
    """One call of each block: its number (B, L / b), the positions that it decided, and what its
    terms count, (B, L / b)."""

    number: Tensor
    places: Places
    weight: Tensor


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
