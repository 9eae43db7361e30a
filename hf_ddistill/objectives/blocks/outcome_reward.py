"""Policy gradient on whole decodings for the reward of what comes out, relative to others of the
same prompt.

tau a decoding: at call r the tokens S_r were decided at the state x_r. R its reward.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from hf_ddistill.couplings import Local, TrainingStep
from hf_ddistill.divergences import ReverseKL
from hf_ddistill.kinds import check_most
from hf_ddistill.objectives.blocks.states import decoded, masked
from hf_ddistill.objectives.by_position import by_position
from hf_ddistill.objectives.objective import Objective
from hf_ddistill.objectives.rollouts import Rollouts
from hf_ddistill.parameterizations import log_prob_of
from hf_ddistill.places import Places, places_of
from hf_ddistill.shapes import Scalar, Where
from hf_ddistill.unmasking import Static, Unmasking, set_log_probability


@dataclass(frozen=True)
class OutcomeReward(Objective):
    """Policy gradient of a reward of whole answers, held near the teacher: the loss of a decoding
    tau is -(A / L) log pi(tau) + kl KL(p_S || p_T) at its states.

    L is the mean number of decoded tokens of the rows, and

        log pi(tau) = sum_r [log P(S_r | x_r) + sum_(i in S_r) log p_S(x_0^i | x_r)]
        A = (R - mean R of its group) / (std R of its group)

    It is the gradient of E R (of each group times (G - 1) / G) without `divide_by_std`, if tokens
    were drawn from p_S itself and positions by a rule that does not look at drawn tokens: "static"
    with score "random", "left_to_right", "margin" or "entropy", or "plackett_luce". Rules that keep
    the drawn tokens that are likeliest, such as "threshold", draw from another law than p_S, and
    the gradient is then that of a neighbour, as in most of the literature. P(S_r) is left out where
    the order is not trained (it is a constant, or not differentiable). Without `clip` there is no
    importance ratio, and a rollout is used once. With it A log p_S of a token is
    min(r A, clamp(r, 1 - clip, 1 + clip) A), r = p_S / (p that drew it): the same gradient at the
    first use, and none for what has moved that far already (PPO, per token as in GRPO).

    References: Shao et al., DeepSeekMath, 2024, arXiv:2402.03300 (groups); Liu et al.,
    Understanding R1-Zero-Like Training, 2025, arXiv:2503.20783 (without the standard deviation);
    Schulman et al., Proximal Policy Optimization, 2017, arXiv:1707.06347, eq. 7 (clip).

    Args:
        rollouts: what the student decodes, see `Rollouts`: `group` is G, `temperature` that of
            p_S, and the order of the rule "plackett_luce" is trained, too (DCoLT). By default the
            surest positions first, by an entropy that does not look at drawn tokens.
        divide_by_std: see A; it gives easy and hard prompts more weight.
        kl: weight of the divergence from the teacher, in nats per token.
        calls: calls of each block that a step looks at, drawn at random, each standing for all
            (the gradient's expectation is the same); None for all of them.
        clip: epsilon, for rollouts that are used more than once; None for no ratio.
    """

    rollouts: Rollouts | Mapping[str, Any] = Rollouts(group=8, unmasking=Static("entropy"))
    divide_by_std: bool = True
    kl: float = 0.04
    calls: int | None = None
    clip: float | None = None
    id: ClassVar[str] = "outcome_reward"
    over: ClassVar[str] = "blocks"
    takes_reward: ClassVar[bool] = True
    citation: ClassVar[str] = (
        "Huang et al., Reinforcing the Diffusion Chain of Lateral Thought with Diffusion Language "
        "Models, 2025, arXiv:2505.10446"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rollouts.group < 2:
            raise ValueError(
                f"rollouts.group must be at least 2, got {self.rollouts.group}: a reward is judged "
                "against those of other rollouts behind the same prompt."
            )
        if not self.rollouts.temperature > 0:
            raise ValueError(
                "A policy gradient needs tokens that were drawn: rollouts.temperature must be "
                f"above 0, got {self.rollouts.temperature}."
            )
        if not self.kl >= 0:
            raise ValueError(f"kl must be at least 0, got {self.kl}.")
        if self.calls is not None and self.calls < 1:
            raise ValueError(f"calls must be at least 1 (or None for all), got {self.calls}.")
        if self.clip is not None and not 0 < self.clip < 1:
            raise ValueError(f"clip must lie in (0, 1) (or be None), got {self.clip}.")
        if self.clip is not None and self.order is not None:
            raise ValueError(
                "clip is of the tokens' probabilities, and a trained order has no such ratio: "
                "leave clip out, or decode rollouts by another rule than 'plackett_luce'."
            )
        if self.clip is None and self.rollouts.updates > 1:
            raise ValueError(
                f"rollouts.updates={self.rollouts.updates} uses rollouts of a student that has "
                "moved since, which takes a ratio: set clip, or rollouts.updates=1."
            )
        check_most(self, "calls")

    @property
    def order(self) -> Unmasking | None:
        """The rule whose order is trained: that of the rollouts, where its law is known."""
        rule = self.rollouts.unmasking
        return rule if rule.has_law else None

    def __call__(self, step: TrainingStep) -> dict[str, Scalar]:
        trajectory = decoded(step, self.id)
        advantages = self.advantages(step)
        score = torch.zeros((), dtype=torch.float64, device=step.x_0.device)
        distance = torch.zeros_like(score)
        for call, here in self._looked_at(step):
            weight = torch.ones_like(call, dtype=torch.float64)
            if self.calls is not None:
                weight = trajectory.calls.double() / self.calls
            gained, kl = self._call(step, (call, here), weight, advantages)
            score = score + gained
            distance = distance + kl
        step.log("kl", step.token_mean(distance.detach()))
        return {"student": step.token_mean(self.kl * distance - score)}

    def _looked_at(self, step: TrainingStep) -> list[tuple[Tensor, Places]]:
        """Calls of each block (B, L / b), and the positions that they decided."""
        trajectory = step.trajectory
        if self.calls is None:
            places = trajectory.places(step.most)
            numbers = (torch.full_like(trajectory.calls, number) for number in range(len(places)))
            return list(zip(numbers, places, strict=True))
        calls = [trajectory.any_call(step.generator) for _ in range(self.calls)]
        decided = (trajectory.rounds == trajectory.spread(call) for call in calls)
        places = places_of(*(trajectory.drawn & where for where in decided))
        return list(zip(calls, places, strict=True))

    def advantages(self, step: TrainingStep) -> Tensor:
        """A of each row, (B,)."""
        reward, size = step.reward, self.rollouts.group
        if reward is None:
            raise ValueError(
                f"Objective {self.id!r} needs the reward of each row, and the step has none; give "
                "the trainer a reward function."
            )
        if len(reward) % size:
            raise ValueError(
                f"Groups of rollouts.group={size} rows do not divide a batch of {len(reward)}."
            )
        groups = reward.double().unflatten(0, (-1, size))
        step.log("reward", groups.mean())
        spread = groups.std(1, correction=0, keepdim=True)
        step.log("informative", (spread > 0).double().mean())
        centred = groups - groups.mean(1, keepdim=True)
        if self.divide_by_std:
            centred = centred / (spread + 1e-4)
        return centred.flatten()

    def _call(
        self, step: TrainingStep, at: tuple[Tensor, Places], weight: Tensor, advantages: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What one call of each block adds to sum A log pi, and to the sum of the divergences."""
        trajectory, (call, here) = step.trajectory, at
        open_ = trajectory.at(call)
        x_t, asked = masked(step, open_), here if self.order is None else Places.of(open_)
        more = {"clean_ids": step.x_0, "block_size": trajectory.block_size}
        local = step.look(step.student, x_t, None, asked, **more)
        drawn, distance = self._compared(step, local, (x_t, here), more)
        each = here.take(trajectory.spread(weight))
        total = (self._gained(step, drawn, here, advantages) * each).sum()
        if self.order is not None:
            blocks = self._order(step, local, here.where) * weight
            total = total + (advantages * blocks.sum(1)).sum()
        return total, (distance * each).sum()

    def _compared(
        self, step: TrainingStep, local: Local, at: tuple[Tensor, Places], more: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """log p_S of each token that a call decided, and the divergence from the teacher there."""
        (x_t, here), of = at, ()
        tokens = here.take(step.x_0)
        if self.kl:
            with torch.no_grad():
                teacher = step.look(step.peers["teacher"], x_t, None, here, **more)
            of = (teacher.prediction.log_conditional[:, 0],)

        def both(some: slice, log_p: Tensor, *of: Tensor) -> Tensor:
            log_p = log_p.double()
            of_tokens = (log_p / self.rollouts.temperature).log_softmax(-1)
            parts = [log_prob_of(of_tokens, tokens[some]), torch.zeros_like(log_p[:, 0])]
            if of:
                parts[1] = ReverseKL()(of[0][some].double(), log_p)
            return torch.stack(parts, -1)

        log_p = local.prediction.log_conditional
        if local.places is here:
            return by_position(both, log_p, of=of).unbind(-1)
        numbers = local.numbers_of(here)
        return by_position(both, log_p, numbers, of=of).index_select(0, numbers).unbind(-1)

    def _gained(
        self, step: TrainingStep, log_p: Tensor, here: Places, advantages: Tensor
    ) -> Tensor:
        """A log p_S of each token at `here`, or what stands for it with `clip`."""
        each = advantages.index_select(0, here.rows)
        if self.clip is None:
            return each * log_p
        before = step.trajectory.log_prob
        if before is None:
            raise ValueError(
                "clip compares with the probabilities that the tokens were drawn with, and the "
                "trajectory has none; train through a trainer that decodes, or set "
                "Trajectory.log_prob."
            )
        ratio = (log_p - here.take(before)).exp()
        near = ratio.clamp(1 - self.clip, 1 + self.clip)
        step.log("clipped", (ratio != near).double().mean())
        return torch.minimum(ratio * each, near * each)

    def _order(self, step: TrainingStep, local: Local, here: Where) -> Tensor:
        """log P(S_r | x_r) of each block, (B, L / b)."""
        scores = local.per_token(self.order.scores(local.prediction.log_conditional))
        blocks = (-1, step.trajectory.block_size)
        parts = [tensor.unflatten(1, blocks) for tensor in (scores, here, local.where)]
        return set_log_probability(*parts)
