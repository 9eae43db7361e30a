"""Law matching: the law of what a few-step sampler puts out, instead of each token's conditional.

p_S, p_T laws of x_0 under the student's sampler and under the teacher; A the auxiliary, a denoiser
trained on the student's samples; z a state of x_0 (masks, or noise); d = log p_T(. | z) -
log p_A(. | z).

The student descends KL(p_S || p_T) = -E_{x_0 ~ p_S} R(x_0), with R(x_0) = log p_T(x_0) -
log p_S(x_0) estimated at random views (`objectives.log_ratio`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from hf_ddistill.couplings import (
    TRAINED_STEPS,
    Local,
    Rollout,
    TrainingStep,
    call_numbers,
    roll_out,
)
from hf_ddistill.denoisers import Denoiser
from hf_ddistill.kinds import check_most
from hf_ddistill.linalg import uniform_noise
from hf_ddistill.objectives.finite_rows import finite_rows, kept
from hf_ddistill.objectives.generated import told, told_by_teacher
from hf_ddistill.objectives.groups import less_the_others
from hf_ddistill.objectives.log_ratio import LogRatio, auxiliary_lag, both_networks, log_ratio
from hf_ddistill.objectives.needs import Frozen, Networks, Trained
from hf_ddistill.objectives.objective import Objective
from hf_ddistill.objectives.pathwise import along, mean_of
from hf_ddistill.objectives.views import View, random_view, step_view
from hf_ddistill.places import Places
from hf_ddistill.samplers import Ancestral, Sampler
from hf_ddistill.shapes import Scalar, Tokens, Where

GRADIENTS = ("pathwise", "policy")
HORIZONS = ("call", "step", "bridge", "rollout")
#: Those that are of what the next call is shown.
OF_A_STEP = ("step", "bridge")
DIVERGENCES = ("reverse_kl", "forward_kl", "jeffreys", "mean_kl")
#: Rows of late calls have few open positions, and would count little in a mean over tokens: weight
#: (L / open)^BALANCE, at most 4^BALANCE. No setting: at four calls .0512 with, .0498 without it.
BALANCE = 0.5


@dataclass(frozen=True)
class LawMatching(Objective):
    """Roll the student out; train the auxiliary on what it drew; move the student along d.

    pathwise: -sum_c p_S(c | x_t) d(c) at the call that decided a token: what a token does to later
    calls it cannot see. In one call from masks it is the exact gradient of a weighted sum of KL_m,
    the mean over sets of m positions of KL between the laws of their tokens (docs/methods.md).
    policy: -(R - mean R of the others) log(probability of the rollout): unbiased for every call, at
    the price of variance.

    A student with a noise input, or whose start differs from sample to sample, can put out the
    teacher's law at each call by itself: it is trained so, pathwise. Masked ones without noise
    plan by what earlier calls reveal: policy gradient (docs/results/exact_problems.md).

    Args:
        gradient: "pathwise" or "policy"; None for what the student can, as above.
        horizon: "call": each row stops at a random call of its rollout, which must put out the
            teacher's law by itself; "step": the same, but only of what the next call is shown,
            so that an early call need not draw the whole sequence: under masks; "bridge": the same,
            each token that a state between both calls hides alike, as in D-MMD, so that early calls
            count more; "rollout": only the last call must, and the earlier ones are trained for its
            sake; None for what the student can: "bridge" under masks with a noise input.
        sampler: of the steps between calls: "ancestral", "jump" or any other with a rule.
        steps: "each_number": one student for 1, 2, 4, ... calls up to `student_steps`, each number
            as likely as the others; "each_call": each call is as likely as the others: better for
            many calls at the end of a long training; "only": for `student_steps` calls alone.
        maskings: views of each x_0; each costs a call of teacher and auxiliary, and takes away
            variance.
        divergence: of pathwise gradients: "reverse_kl", "forward_kl" (p_T / p_A - 1 in the place of
            d: covers), "jeffreys", the sum of both, or "mean_kl": the auxiliary is taught the laws
            that tokens were drawn from, and beside them what the teacher says at z. Then p_A is
            m = (p_S + p_T) / 2, d at most log 2, and 2 KL(m || p_T) is descended at each state,
            under masks. None: "mean_kl" with "step" and "bridge", else "reverse_kl".
    """

    gradient: str | None = None
    horizon: str | None = None
    sampler: Sampler | Mapping[str, Any] | str = Ancestral()
    steps: str = "each_number"
    maskings: int = 1
    divergence: str | None = None
    id: ClassVar[str] = "law_matching"
    over: ClassVar[str] = "rows"
    networks: ClassVar[Networks] = {"teacher": Frozen(), "auxiliary": Trained(copy_of="teacher")}
    citation: ClassVar[str] = "hf_ddistill, Law matching of few-step discrete diffusion, 2026"
    measured: ClassVar[str] = (
        "exact digits under masks after 15,000 to 23,000 passes, TV .0189 / .0127 / .0114 at "
        "1 / 2 / 4 calls (medians; policy gradient from 2 calls on)"
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "sampler", Sampler.from_config(self.sampler))
        if not self.sampler.is_product:
            raise ValueError(
                "A rollout that a gradient goes through needs a sampler with a step rule, such as "
                f"'ancestral' or 'jump'; {self.sampler.id!r} has none."
            )
        for name, known in (
            ("gradient", (None, *GRADIENTS)),
            ("horizon", (None, *HORIZONS)),
            ("steps", TRAINED_STEPS),
            ("divergence", (None, *DIVERGENCES)),
        ):
            if getattr(self, name) not in known:
                named = ", ".join("None" if one is None else one for one in known)
                raise ValueError(f"Unknown {name} {getattr(self, name)!r}; there are: {named}.")
        if self.gradient == "policy" and self.divergence not in (None, "reverse_kl"):
            raise ValueError(
                f"divergence={self.divergence!r} needs gradient='pathwise', and a student that has "
                "a noise input or starts from noise: a policy gradient of it would need the "
                "log-ratio of whole sequences without noise."
            )
        if self.horizon in OF_A_STEP and self.gradient == "policy":
            raise ValueError(
                f"horizon={self.horizon!r} needs gradient='pathwise', and a student with a noise "
                "input: a policy gradient needs the log-ratio of whole sequences."
            )
        if self.horizon in OF_A_STEP and not self.sampler.keeps_certain:
            raise ValueError(
                "A jump may noise again all that a call has drawn, so that no part of it is what "
                f"the next call is shown; with horizon={self.horizon!r} give sampler='ancestral'."
            )
        reaching = (self.gradient, self.horizon) == ("pathwise", "rollout")
        if reaching and not self.sampler.keeps_certain:
            raise ValueError(
                "A jump may noise again any token of an earlier call, so that no pathwise gradient "
                "reaches it; with horizon='rollout' give gradient='policy'."
            )
        check_most(self, "maskings", least=1)

    def for_student(self, student: Denoiser) -> LawMatching:
        plans = plans_in_one_call(student)
        gradient = self.gradient or ("pathwise" if plans else "policy")
        still = student.diffusion.reveals and self.sampler.keeps_certain
        apart = "bridge" if still and gradient == "pathwise" else "call"
        horizon = self.horizon or (apart if plans else "rollout")
        divergence = self.divergence or ("mean_kl" if horizon in OF_A_STEP else "reverse_kl")
        finer = horizon in OF_A_STEP or divergence == "mean_kl"
        if finer and not student.diffusion.reveals:
            raise ValueError(
                f"horizon={horizon!r} with divergence={divergence!r} needs masks: under the "
                f"process {student.diffusion.process.id!r} every state tells of all tokens."
            )
        return replace(self, gradient=gradient, horizon=horizon, divergence=divergence)

    def fewer_calls(self, calls: int) -> tuple[int, ...]:
        return () if self.steps == "only" else super().fewer_calls(calls)

    def __call__(self, step: TrainingStep) -> dict[str, Scalar]:
        if None in (self.gradient, self.horizon, self.divergence):
            return self.for_student(step.student)(step)
        learns = "student" in step.train
        with torch.set_grad_enabled(learns and torch.is_grad_enabled()):
            rollout = self._rollout(step)
        views = [self._view(step, rollout, rollout.x_0) for _ in range(self.maskings)]
        self._record_teacher(step, rollout)
        ratios = [log_ratio(step, rollout.x_0, view.z, view.t, view.where) for view in views]
        good = finite_rows(step, ratios)
        losses = {}
        if learns:
            shown = list(zip(views, ratios, strict=True))
            losses["student"] = self._student_loss(step, rollout, shown, good)
        if "auxiliary" in step.train:
            losses["auxiliary"] = self._auxiliary_loss(step, rollout, views, ratios)
        return losses

    def _rollout(self, step: TrainingStep) -> Rollout:
        calls = call_numbers(step, self.steps)
        stop = calls - 1
        if self.horizon != "rollout":
            share = uniform_noise(calls.shape, step.generator, "cpu")
            stop = (share * calls).long().minimum(stop)
        return roll_out(step, calls, stop, self.sampler, graph=self.horizon == "rollout")

    def _view(self, step: TrainingStep, rollout: Rollout, x_0: Tokens) -> View:
        """Of what was drawn, or of the data in its place."""
        if self.horizon in OF_A_STEP:
            view = step_view(step, x_0, rollout.last.where, *rollout.last_step())
            alike = self.horizon == "bridge"
            return replace(view, weight=torch.ones_like(view.weight)) if alike else view
        within = rollout.last.where if self.horizon == "call" else step.trained
        # A sum of d must spread little (.0308 at two calls, and .0396 with "uniform"); pathwise
        # there is no sum, and views of few masks would be too many (.0340, "inverse" .0429).
        return random_view(step, x_0, within, "inverse" if self.gradient == "policy" else "uniform")

    def _student_loss(
        self,
        step: TrainingStep,
        rollout: Rollout,
        shown: list[tuple[View, LogRatio]],
        good: Tensor,
    ) -> Scalar:
        rewards = [ratio.of_tokens.sum(1) * view.weight for view, ratio in shown]
        rewards = [torch.where(good, reward, torch.zeros_like(reward)) for reward in rewards]
        step.log("reward", torch.stack(rewards).mean())
        loss = torch.zeros((), dtype=torch.float64, device=rollout.x_0.device)
        if self.gradient == "policy":
            log_prob = rollout.log_probs_with_last().sum(1)
            for reward in rewards:
                gained = reward if step.held_out else less_the_others(reward, good)
                loss = loss - step.token_mean(gained * good * log_prob)
            return loss / self.maskings
        everyone = torch.arange(len(good), device=good.device)
        for view, ratio in shown:
            for rows, local, where in (
                (everyone, rollout.last, rollout.last.where),
                *rollout.earlier,
            ):
                value = self._pathwise(view, ratio, local, (where, good[rows]), rows)
                share = step.lengths[rows] / local.where.sum(1).clamp_min(1)
                loss = loss - step.token_mean(value * share.clamp_max(4.0) ** BALANCE)
        return loss / self.maskings

    def _pathwise(
        self,
        view: View,
        ratio: LogRatio,
        local: Local,
        at: tuple[Where, Tensor],
        rows: Tensor,
    ) -> Tensor:
        """sum_c p_S(c) h(d(c)) over the tokens decided at some positions, in good rows, and open in
        z, of each of some rows by its weight in the view."""
        (where, good), both = at, ratio.teacher.places
        if self.horizon == "rollout":
            both = Places.of(where & view.where[rows])  # else all that is open in z was decided
        good = good.index_select(0, both.rows)[:, None]

        def mean(some: slice, log_p: Tensor, teacher: Tensor, auxiliary: Tensor) -> Tensor:
            d = torch.where(good[some], teacher.sub_(auxiliary), 0.0)
            if self.divergence == "forward_kl":
                d = torch.expm1(d.clamp_max(8.0))
            elif self.divergence == "jeffreys":
                d = d + torch.expm1(d.clamp_max(8.0))
            return mean_of(log_p, d)

        # The student's law is looked at once if there is one view, and one call that is trained.
        last = self.maskings == 1 and self.horizon != "rollout" and self.divergence != "mean_kl"
        sums = along(local, ratio, both, mean, rows=rows, last=last)
        return sums * view.weight.clamp_max(8.0)[rows]

    def _auxiliary_loss(
        self, step: TrainingStep, rollout: Rollout, views: list[View], ratios: list[LogRatio]
    ) -> Scalar:
        """Its cross entropy on what was drawn, or on the laws of "mean_kl"."""
        losses, drawn, lags = [], [], []
        for view, ratio in zip(views, ratios, strict=True):
            log_p, taught = ratio.log_prob_of_auxiliary, -ratio.log_prob_of_auxiliary.detach()
            drawn.append(_cross_entropy(step, ratio.auxiliary, log_p))
            losses.append(drawn[-1])
            if self.divergence == "mean_kl":
                both = ratio.auxiliary.places
                if self.horizon == "rollout":
                    both = Places.of(rollout.last.where & view.where)
                lost = told(rollout.last, ratio, both, "soft", told_by_teacher)
                taught = lost.detach() / 2  # it knows best the mean of both laws
                losses[-1] = _cross_entropy(step, ratio.auxiliary, -lost)
            lags.append(auxiliary_lag(ratio.auxiliary, taught))
        step.log("entropy", torch.stack(drawn).mean())
        step.log("auxiliary_lag", torch.stack(lags).mean())
        return torch.stack(losses).mean()

    def _record_teacher(self, step: TrainingStep, rollout: Rollout) -> None:
        """The teacher's cross entropy on the data at such states, from the first 20 steps."""
        memory = step.memory.of(self.id)
        # On the CPU, where it is known without a wait.
        count = memory.get("teacher_steps", torch.zeros((), dtype=torch.int64))
        total = kept(memory, "teacher", torch.zeros((), dtype=torch.float64), step)
        if int(count) < 20:
            view = self._view(step, rollout, step.x_0)
            with torch.no_grad():
                seen = step.look(both_networks(step)[0], view.z, view.t, view.where)
            count += 1
            total += _cross_entropy(step, seen, seen.log_prob_of(step.x_0))
        step.log("teacher_entropy", total / int(count))


def plans_in_one_call(student: Denoiser) -> bool:
    """Whether a call of the student has randomness that all of its tokens can share: a noise input,
    or a start that is not the same for all samples."""
    starts = len(student.diffusion.process.limit().nonzero())
    return student.latent is not None or starts > 1


def _cross_entropy(step: TrainingStep, local: Local, log_prob: Tensor) -> Scalar:
    """Each row's mean at the positions that were asked for, by its tokens."""
    tokens = -local.per_token(log_prob)
    return step.row_mean(tokens.sum(1) / local.where.sum(1).clamp_min(1))
