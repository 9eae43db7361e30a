"""Law matching: the law of what a few-step sampler puts out, instead of each token's conditional.

p_S, p_T laws of x_0 under the student's sampler and under the teacher; A the auxiliary, a denoiser
trained on the student's samples; z a state of x_0 (masks, or noise); d = log p_T(. | z) -
log p_A(. | z).

The student descends KL(p_S || p_T) = -E_{x_0 ~ p_S} R(x_0), with R(x_0) = log p_T(x_0) -
log p_S(x_0) estimated by random maskings (any-order chain rule), or where nothing is masked by the
difference of two continuous-time bounds: its gradient is the same, since A minimises its own bound.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from hf_ddistill.couplings import (
    Asked,
    Local,
    Rollout,
    TrainingStep,
    asked_for,
    call_numbers,
    credit,
    roll_out,
    taken,
    views,
)
from hf_ddistill.linalg import uniform_noise
from hf_ddistill.objectives.needs import Frozen, Networks, Trained
from hf_ddistill.objectives.nelbo import nelbo_density
from hf_ddistill.objectives.objective import Objective
from hf_ddistill.samplers import Ancestral, Sampler
from hf_ddistill.shapes import LOG_ZERO, Scalar, Tokens, Where

GRADIENTS = ("pathwise", "policy", "mixture")
HORIZONS, CREDITS = ("call", "rollout"), ("rollout", "call")
MASKINGS = ("uniform", "inverse", "single")
DIVERGENCES = ("reverse_kl", "forward_kl", "jeffreys")


@dataclass(frozen=True)
class View:
    """One state of the rollouts' x_0: both denoisers there, d, and what a row of it counts."""

    asked: Asked
    teacher: Local
    auxiliary: Local
    difference: Tensor
    weight: Tensor
    z: Tokens
    t: Tensor


@dataclass(frozen=True)
class LawMatching(Objective):
    """Roll the student out; train the auxiliary on what it drew; move the student along d.

    pathwise: -sum_c p_S(c | x_t) d(c) at the call that decided a token. At the last call it is the
    exact gradient with `masking="single"`; what a token does to later calls it cannot see.
    policy: -(R - mean R of the others) log(probability of the rollout): unbiased for every call, at
    the price of variance. mixture: pathwise at the last call, policy for those before it.

    Args:
        gradient: "pathwise", "policy" or "mixture".
        horizon: "call": each row stops at a random call of its rollout, which must put out the
            teacher's law by itself; "rollout": only the last call must, and the earlier ones are
            trained for its sake. Students with a noise input, or a noisy start, can do the former.
        credit: of a policy gradient: "rollout": each call answers for all of R; "call": for what
            was gained by it and by later calls, which is all that it can influence.
        sampler: of the steps between calls: "ancestral", "jump" or any other with a rule.
        any_steps: one student for 1, 2, 4, ... calls up to `student_steps`; else for these alone.
        each_call: with `any_steps`, rows train every call alike, not every number of calls, of
            which the first call gets most: better at the end of a long training, not in a short.
        maskings: states z of each x_0.
        masking: how many positions are masked in z, see `couplings.views`.
        divergence: of pathwise gradients: "reverse_kl", "forward_kl" (p_T / p_A - 1 in the place of
            d: covers) or "jeffreys", the mean of both.
        entropy_bonus: b; the student aims at p_T^(1 / (1 + b)), normalised.
        data_weight: of the cross entropy on the batch's own x_0 at the times of the calls.
        balance: weight (L / open)^balance of a row with few open positions, at most 4^balance.
    """

    gradient: str = "pathwise"
    horizon: str = "call"
    credit: str = "rollout"
    sampler: Sampler | Mapping[str, Any] | str = Ancestral()
    any_steps: bool = True
    each_call: bool = False
    maskings: int = 1
    masking: str = "uniform"
    divergence: str = "reverse_kl"
    entropy_bonus: float = 0.0
    data_weight: float = 0.0
    balance: float = 0.5
    id: ClassVar[str] = "law_matching"
    networks: ClassVar[Networks] = {"teacher": Frozen(), "auxiliary": Trained(copy_of="teacher")}
    citation: ClassVar[str] = "hf_ddistill, Law matching of few-step discrete diffusion, 2026"

    def __post_init__(self) -> None:
        object.__setattr__(self, "sampler", Sampler.from_config(self.sampler))
        for name, known in (
            ("gradient", GRADIENTS),
            ("horizon", HORIZONS),
            ("credit", CREDITS),
            ("masking", MASKINGS),
            ("divergence", DIVERGENCES),
        ):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"Unknown {name} {getattr(self, name)!r}; there are: {', '.join(known)}."
                )
        if self.maskings < 1:
            raise ValueError(f"maskings must be at least 1, got {self.maskings}.")
        for name in ("entropy_bonus", "data_weight", "balance"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}.")
        if self.gradient != "pathwise" and self.divergence != "reverse_kl":
            raise ValueError(
                f"divergence={self.divergence!r} needs gradient='pathwise': a policy gradient of "
                "it would need the exponential of a noisy reward."
            )
        whole = self.gradient == "policy" and self.horizon == "rollout"
        if self.credit == "call" and (not whole or not self.sampler.keeps_certain):
            raise ValueError(
                "credit='call' divides the reward of a policy gradient among the calls that decide "
                "the tokens for good: give gradient='policy', horizon='rollout' and no sampler "
                f"'jump'; got {self.gradient!r}, {self.horizon!r}, {self.sampler.id!r}."
            )
        alone = self.gradient == "policy" or self.horizon == "call"
        if not alone and not self.sampler.keeps_certain:
            raise ValueError(
                "A jump may noise tokens of earlier calls again: no pathwise gradient reaches "
                "them; with horizon='rollout' give gradient='policy'."
            )

    def __call__(self, step: TrainingStep) -> dict[str, Scalar]:
        if "auxiliary" not in step.peers:
            raise ValueError(
                "law_matching needs the trainable peer 'auxiliary', a copy of the teacher; got "
                f"the peers {sorted(step.peers)}."
            )
        learns = "student" in step.train
        with torch.set_grad_enabled(learns and torch.is_grad_enabled()):
            rollout = self._rollout(step)
        part = self.horizon if self.credit == "rollout" else "each call"
        asked = asked_for(step, rollout, part, self.maskings)
        shown = [self._view(step, rollout.x_0, each) for each in asked]
        self._record_teacher(step, asked[0])
        good = self._check(step, rollout.x_0, shown)
        losses = {}
        if learns:
            losses["student"] = self._student_loss(step, rollout, shown, good)
        if "auxiliary" in step.train:
            losses["auxiliary"] = self._auxiliary_loss(step, rollout, shown)
            step.record["entropy"] = losses["auxiliary"].detach()
        return losses

    def _rollout(self, step: TrainingStep) -> Rollout:
        calls = call_numbers(step, self.any_steps, self.each_call)
        stop = calls - 1
        if self.horizon == "call":
            share = uniform_noise(calls.shape, step.generator, calls.device)
            stop = (share * calls).long().minimum(stop)
        graph = self.horizon == "rollout" and bool((stop > 0).any())
        return roll_out(step, calls, stop, self.sampler, graph)

    def _view(self, step: TrainingStep, x_0: Tokens, asked: Asked) -> View:
        z, t, where, weight = views(step, x_0, self.masking, asked.within, asked.hidden)
        with torch.no_grad():
            teacher = step.look(step.peers["teacher"], z, t, where)
        learns = "auxiliary" in step.train and self.credit == "rollout"
        with torch.set_grad_enabled(learns and torch.is_grad_enabled()):
            auxiliary = step.look(step.peers["auxiliary"], z, t, where)
        log_p = teacher.prediction.log_conditional
        log_a = auxiliary.prediction.log_conditional.detach()
        difference = log_p - (1 + self.entropy_bonus) * log_a
        return View(asked, teacher, auxiliary, difference, weight * asked.times, z, t)

    def _check(self, step: TrainingStep, x_0: Tokens, shown: list[View]) -> Tensor:
        """The rows (B, 1) whose log-ratios are finite everywhere; raises if too few are."""
        good = torch.ones(x_0.shape[0], dtype=torch.bool, device=x_0.device)
        for view in shown:
            drawn = x_0[view.teacher.where][:, None, None]
            ratio = view.difference.gather(-1, drawn)[:, 0, 0]
            lost = ~ratio.isfinite() | (ratio.abs() > -LOG_ZERO / 2)
            good[view.teacher.rows[lost]] = False
        skipped = 1 - good.double().mean()
        total = step.memory.setdefault("law_matching_rows", torch.zeros(2, dtype=torch.float64))
        total += torch.tensor([len(good), float(skipped) * len(good)], dtype=torch.float64)
        step.record["skipped"] = skipped
        if float(total[1]) > max(0.01 * float(total[0]), 1.0):
            raise ValueError(
                f"The reward of {float(total[1] / total[0]):.1%} of the rollouts is not finite, "
                "and 1 % is allowed: the teacher gives no probability to what the student draws; "
                "smooth its law, or start the student from the teacher."
            )
        return good[:, None]

    def _student_loss(
        self, step: TrainingStep, rollout: Rollout, shown: list[View], good: Tensor
    ) -> Scalar:
        loss = torch.zeros((), dtype=torch.float64, device=rollout.x_0.device)
        rewards = [self._reward(step, rollout.x_0, view) for view in shown]
        rewards = [torch.where(good[:, 0], reward, torch.zeros_like(reward)) for reward in rewards]
        step.record["reward"] = torch.stack(rewards).mean()
        if self.gradient != "pathwise":
            whole = self.gradient == "policy"
            log_probs = rollout.log_probs_with_last() if whole else rollout.log_probs
            for view, reward in zip(shown, rewards, strict=True):
                credited = credit(log_probs, view.asked, reward, good[:, 0], step.held_out)
                loss = loss - step.token_mean(credited) / self.maskings
        if self.gradient != "policy":
            everyone = torch.arange(len(good), device=good.device)
            decided = [(everyone, rollout.last, rollout.last.where)]
            decided += list(rollout.earlier) if self.gradient == "pathwise" else []
            for view in shown:
                for rows, local, where in decided:
                    value = self._pathwise(view, local, where & good[rows], rows)
                    share = step.lengths[rows] / local.where.sum(1).clamp_min(1)
                    weight = share.clamp_max(4.0) ** self.balance
                    loss = loss - step.token_mean(value * weight) / self.maskings
        if self.data_weight:
            loss = loss + self.data_weight * self._on_data(step)
        return loss

    def _pathwise(self, view: View, local: Local, where: Where, rows: Tensor) -> Tensor:
        """sum_c p_S(c) h(d(c)) over the tokens decided at `where` and open in z, of each of some
        rows by its weight in the view."""
        both = where & view.teacher.where[rows]
        # The same positions among all rows, to find d there.
        every = torch.zeros_like(view.teacher.where)
        every[rows] = both
        d = view.difference[every[view.teacher.where], 0]
        if self.divergence == "forward_kl":
            d = torch.expm1(d.clamp_max(8.0))
        elif self.divergence == "jeffreys":
            d = (d + torch.expm1(d.clamp_max(8.0))) / 2
        log_p = taken(local, both)
        # A token that is impossible for the teacher, and for the student, says nothing.
        value = torch.where(log_p > LOG_ZERO / 2, log_p.exp() * d, torch.zeros_like(d)).sum(-1)
        sums = value.new_zeros(both.shape[0]).index_add(0, both.nonzero()[:, 0], value)
        return sums * view.weight.clamp_max(8.0)[rows]

    def _reward(self, step: TrainingStep, x_0: Tokens, view: View) -> Tensor:
        """R of each row, (B,)."""
        where = view.teacher.where
        drawn = x_0[where][:, None]
        if step.diffusion.reveals:
            terms = view.difference.gather(-1, drawn[..., None])[..., 0]
        else:
            about = (step.diffusion, drawn, view.z[where][:, None], view.t[view.teacher.rows])
            with torch.no_grad():
                auxiliary = nelbo_density(view.auxiliary.prediction, *about)
                bound = nelbo_density(view.teacher.prediction, *about)
            terms = (1 + self.entropy_bonus) * auxiliary - bound
        return view.teacher.per_token(terms.double()).sum(1) * view.weight

    def _auxiliary_loss(self, step: TrainingStep, rollout: Rollout, shown: list[View]) -> Scalar:
        seen = [view.auxiliary for view in shown]
        if self.credit == "call":
            # Masks that follow the calls would tell it which tokens are of one call, and therefore
            # independent of each other: that is not their law in p_S.
            seen = []
            for asked in asked_for(step, rollout, "rollout", self.maskings):
                z, t, where, _ = views(step, rollout.x_0, self.masking, asked.within)
                seen.append(step.look(step.peers["auxiliary"], z, t, where))
        parts = [self._cross_entropy(step, each, rollout.x_0) for each in seen]
        return torch.stack(parts).mean()

    def _cross_entropy(self, step: TrainingStep, local: Local, x_0: Tokens) -> Scalar:
        """Of a denoiser on x_0 at the view's open positions: each row's mean, by its tokens."""
        log_p = local.prediction.log_conditional.gather(-1, x_0[local.where][:, None, None])
        tokens = -local.per_token(log_p[..., 0])
        return step.row_mean(tokens.sum(1) / local.where.sum(1).clamp_min(1))

    def _record_teacher(self, step: TrainingStep, asked: Asked) -> None:
        """The teacher's cross entropy on the data at such states, from the first 20 steps."""
        known = step.memory.setdefault("law_matching_teacher", torch.zeros(2, dtype=torch.float64))
        if known[1] < 20:
            z, t, where, _ = views(step, step.x_0, self.masking, asked.within, asked.hidden)
            with torch.no_grad():
                seen = step.look(step.peers["teacher"], z, t, where)
            mean = self._cross_entropy(step, seen, step.x_0)
            known += torch.tensor([float(mean), 1.0], dtype=torch.float64)
        step.record["teacher_entropy"] = known[0] / known[1]

    def _on_data(self, step: TrainingStep) -> Scalar:
        """The student's cross entropy on the batch, noised to the times of its calls."""
        calls = call_numbers(step, self.any_steps)
        share = uniform_noise(calls.shape, step.generator, calls.device)
        t = 1 - (share * calls).long() / calls.double()
        x_t = step.noised(t)
        local = step.look(step.student, x_t, t)
        log_p = local.prediction.log_conditional.gather(-1, step.x_0[local.where][:, None, None])
        return -step.token_mean(log_p)
