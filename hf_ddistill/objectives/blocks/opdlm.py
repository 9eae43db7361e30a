"""OPDLM: a causal language model becomes a block-diffusion one on its own rollouts (Su et al.,
2026, arXiv:2606.06712).

The student decodes x_0 behind a prompt; at a state x_t of that decoding its prediction is trained
on what the causal model says of the same token, given the tokens of x_0 before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from hf_ddistill.configurable import settings_of
from hf_ddistill.couplings import TrainingStep, random_masks
from hf_ddistill.denoisers import Autoregressive
from hf_ddistill.divergences import Divergence, ForwardKL
from hf_ddistill.objectives.blocks.posterior_target import PosteriorTarget
from hf_ddistill.objectives.blocks.states import decoded, masked
from hf_ddistill.objectives.by_position import by_position
from hf_ddistill.objectives.needs import Frozen, Networks
from hf_ddistill.objectives.objective import Objective
from hf_ddistill.objectives.rollouts import Rollouts
from hf_ddistill.places import Places
from hf_ddistill.shapes import LOG_ZERO, Scalar, Where

STATES = ("trajectory", "trajectory_in_step", "random")
TARGETS = ("prefix", "posterior")


@dataclass(frozen=True)
class OPDLM(Objective):
    """E sum_b sum_(i masked in x_t^b) D(p_LM(. | x_0^(<i)), p_student^i(. | x_0^(<b), x_t^b)).

    A sequence counts as the mean over its masked tokens. The paper's target looks at the tokens of
    x_0 to the left, some of which the student does not see, and at none to the right, some of which
    it does: within a block its mean is not the posterior of the student's state. The target
    "posterior" mends that, from the same causal model (`PosteriorTarget`).

    Args:
        rollouts: what the student decodes, see `Rollouts`.
        states: "trajectory" (those that the decoding passed through, one for each block by itself,
            as in the released code), "trajectory_in_step" (after one share of the calls in all of a
            row's blocks, Algorithm 1) or "random" (OPDLM_off: random masks on the same x_0).
        divergence: D; the paper's is the forward KL.
        top_k: match the teacher's k likeliest tokens only, neither side normalised over them (16
            for the paper's larger models); None for all.
        teacher_temperature: of the causal model.
        target: "prefix" (the paper's), "posterior", or a `PosteriorTarget` or its settings.
    """

    rollouts: Rollouts | Mapping[str, Any] = Rollouts()
    states: str = "trajectory"
    divergence: Divergence | Mapping[str, Any] | str = field(default_factory=ForwardKL)
    top_k: int | None = None
    teacher_temperature: float = 1.0
    target: PosteriorTarget | Mapping[str, Any] | str = "prefix"
    id: ClassVar[str] = "opdlm"
    over: ClassVar[str] = "blocks"
    networks: ClassVar[Networks] = {"teacher": Frozen(causal=True)}
    unit: ClassVar[str] = "row"
    citation: ClassVar[str] = (
        "Su et al., Data-Efficient Autoregressive-to-Diffusion Language Models via On-Policy "
        "Distillation, 2026, arXiv:2606.06712"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "divergence", Divergence.from_config(self.divergence))
        if isinstance(self.target, Mapping) or self.target == "posterior":
            given = {} if self.target == "posterior" else self.target
            object.__setattr__(self, "target", settings_of(PosteriorTarget, given, "target"))
        for name, known in (("states", STATES), ("target", TARGETS)):
            value = getattr(self, name)
            if value not in known and not isinstance(value, PosteriorTarget):
                raise ValueError(f"Unknown {name} {value!r}; there are: {', '.join(known)}.")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {self.top_k}.")
        if not self.teacher_temperature > 0:
            raise ValueError(
                f"teacher_temperature must be above 0, got {self.teacher_temperature}."
            )

    def __call__(self, step: TrainingStep) -> dict[str, Scalar]:
        where = self.masks(step)
        x_t = masked(step, where)
        student = step.look(step.student, x_t, None, where, clean_ids=step.x_0)
        log_q = student.prediction.log_conditional
        target = self.target_at(step, student.places, log_q).squeeze(1)

        def distance(some: slice, log_q: Tensor, log_p: Tensor) -> Tensor:
            return self.distance(log_p[some], log_q)

        tokens = student.per_token(by_position(distance, log_q, of=(target,))[:, None])
        counts = where.sum(1)
        losses = tokens.sum(1) / counts.clamp_min(1)
        rows = (step.lengths > 0).sum().clamp_min(1)
        step.log("masked", counts.double().mean())
        step.log("calls_per_block", _mean_calls(step))
        return {"student": losses.sum() / rows}

    def masks(self, step: TrainingStep) -> Where:
        """(B, L), the masks of the state that the student is trained at."""
        path = decoded(step, self.id)
        if self.states == "random":
            return random_masks(step.x_0, path.drawn, path.block_size, step.generator)
        return path.at(path.any_call(step.generator, self.states == "trajectory"))

    def target_at(self, step: TrainingStep, where: Where | Places, log_q: Tensor) -> Tensor:
        """log p (N, 1, K) that the student is trained on at the masks."""
        if isinstance(self.target, PosteriorTarget):
            return self.target(step, Places.of(where), log_q.detach())
        teacher = Autoregressive(step.peers["teacher"])
        with torch.no_grad():
            local = step.look(teacher, step.x_0, None, where)
        return local.prediction.log_conditional

    def distance(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """D of two laws (..., K), the teacher's at its temperature and cut to its top k: (...)."""
        if self.teacher_temperature != 1:
            possible = log_p > LOG_ZERO / 2
            log_p = (log_p / self.teacher_temperature).where(possible, log_p).log_softmax(-1)
        if self.top_k is not None:
            log_p, index = log_p.topk(min(self.top_k, log_p.shape[-1]), -1)
            log_q = log_q.gather(-1, index)
        return self.divergence(log_p, log_q)


def _mean_calls(step: TrainingStep) -> Tensor:
    calls = step.trajectory.calls
    return calls.double().sum() / (calls > 0).sum().clamp_min(1)
