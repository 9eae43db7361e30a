"""FS-DFM: few-step discrete flow matching, a student that is told the size of its step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from hf_ddistill.configurable import read_members
from hf_ddistill.couplings import Local, TrainingStep, step_back
from hf_ddistill.couplings.times import EARLIEST
from hf_ddistill.denoisers import Denoiser
from hf_ddistill.divergences import Divergence, ForwardKL
from hf_ddistill.linalg import uniform_noise
from hf_ddistill.objectives.by_position import by_position, chunks
from hf_ddistill.objectives.needs import Frozen, Networks
from hf_ddistill.objectives.objective import Objective
from hf_ddistill.objectives.weightings import Even, Weighting
from hf_ddistill.parameterizations import Prediction
from hf_ddistill.places import Places
from hf_ddistill.samplers import Sampler, StepSized, size_code
from hf_ddistill.shapes import Scalar, Times, Tokens

#: Of steps that a student can be told: a shorter one would end before `EARLIEST`.
SIZES = 10


@dataclass(frozen=True)
class FSDFM(Objective):
    """E sum_i D(target^i, p_student(x_0^i | x_t, Delta)), Delta one of 1, 1/2, ..., 2^-(J - 1).

    Of the smallest step the target is the teacher's p(x_0 | x_t); of any other that of a shortcut:
    a Runge-Kutta step of the student's own mean at steps of half the size, with log p = (k1 + 2 k2
    + 2 k3 + k4) / 6 up to normalisation, k1 at x_t, k2 and k3 half a step on, k4 at its end, each
    at a state that is drawn by the one before. So a student of few calls learns from itself at
    more, down to the teacher, in one training without rounds; it serves every number of calls.

    The student reads Delta in its noise input, of which no noise is drawn then (`size_code`): its
    width is J, and `noise_dim=` of the trainer gives it. Steps jump by the integral of the rate
    (the paper's cumulative scalar, see `FlowMatching.integrated`); the sampler "step_sized" does
    so, and tells the network the size of each step.

    References: Monsefi et al., FS-DFM: Fast and Accurate Long Text Generation with Few-Step
    Diffusion Language Models, 2025, arXiv:2509.20624.

    Args:
        divergence: D; the paper's is the forward KL.
        chained: as in the authors' code, the states of k3 and k4 are drawn from that of the k
            before, half a step on each time; else from x_t, as Runge and Kutta have it.
        weighting: how much a time and a token count, as in `ecd`.

    Raises:
        ValueError: from `for_student`, for a process without a path of this kind, and a student
            without a noise input of two numbers or more.
    """

    divergence: Divergence | Mapping[str, Any] | str = field(default_factory=ForwardKL)
    chained: bool = False
    weighting: Weighting | Mapping[str, Any] | str = field(default_factory=Even)
    id: ClassVar[str] = "fs_dfm"
    over: ClassVar[str] = "rows"
    networks: ClassVar[Networks] = {"teacher": Frozen(), "mean": Frozen(mean=True)}
    reads_noise: ClassVar[bool] = True
    sampler: ClassVar[Sampler] = StepSized()
    citation: ClassVar[str] = "Monsefi et al., FS-DFM, 2025, arXiv:2509.20624"
    measured: ClassVar[str] = (
        "exact digits, uniform noise after 18,000 passes, TV .2410 / .1273 / .0796 at 1 / 2 "
        "/ 4 calls"
    )

    def __post_init__(self) -> None:
        read_members(self, divergence=Divergence, weighting=Weighting)

    def for_student(self, student: Denoiser) -> FSDFM:
        self.sampler.check(student.diffusion)
        if student.latent is None or student.latent.dim < 2:
            raise ValueError(
                "Objective 'fs_dfm' tells the student the size of its step by its noise input, and "
                f"this one is {getattr(student.latent, 'dim', 0)} wide: give it "
                "noise_dim=J for the sizes 1, 1/2, ..., 2^-(J - 1), 2 at least."
            )
        if student.latent.dim > SIZES:
            raise ValueError(
                f"Objective 'fs_dfm' knows sizes down to 2^-{SIZES - 1} of a step, and noise_dim="
                f"{student.latent.dim} would be for shorter ones: give noise_dim={SIZES} at most."
            )
        return self

    def check(self, student: Denoiser, teacher: Denoiser | None, calls: Sequence[int]) -> None:
        if max(calls) > (finest := 2 ** (student.latent.dim - 1)):
            raise ValueError(
                f"Objective 'fs_dfm' tells the student the size of its step, down to 1 / {finest} "
                f"with noise_dim={student.latent.dim}, and a step of {max(calls)} calls is "
                f"shorter: give noise_dim={math.ceil(math.log2(max(calls))) + 1}, or fewer calls."
            )

    def __call__(self, step: TrainingStep) -> dict[str, Scalar]:
        finest = step.student.latent.dim - 1
        t, level = self._times(step, finest)
        size = 2.0**-level
        x_t = step.noised(t)
        student = step.look(step.student, x_t, t, **size_code(step.student, x_t, size))
        with torch.no_grad():
            target = self._shortcut(step, student, (x_t, size))
            teacher = step.look(step.peers["teacher"], x_t, t, student.places)
            smallest = (level == finest).index_select(0, student.rows)[:, None]
            taught = teacher.prediction.log_conditional.squeeze(1).to(target)
            torch.where(smallest, taught, target, out=target)
            del taught, teacher

        weighed, log_q = self.weighting.on(self.divergence), student.prediction.log_conditional

        def distance(some: slice, log_q: Tensor, log_p: Tensor) -> Tensor:
            return weighed(log_p[some], log_q)

        distances = by_position(distance, log_q, of=(target,))[:, None]
        tokens = student.per_token(self.weighting.regularised(distances, log_q))
        losses = self.weighting.rows(step, t, tokens.sum(1) / step.lengths.clamp_min(1))
        step.log("divergence", step.row_mean(losses.detach()))
        return {"student": step.row_mean(losses)}

    @staticmethod
    def _times(step: TrainingStep, finest: int) -> tuple[Times, Tensor]:
        """t (B,) on the grid of the smallest step, and j (B,) with Delta = 2^-j <= t."""
        share = uniform_noise((len(step.x_0), 2), step.generator, step.x_0.device)
        level = (share[:, 0] * (finest + 1)).long().double()
        size, smallest = 2.0**-level, 2.0**-finest
        places = ((1 - size) / smallest).round() + 1
        return size + smallest * (share[:, 1] * places).floor(), level

    def _shortcut(self, step: TrainingStep, student: Local, at: tuple[Tokens, Tensor]) -> Tensor:
        """log p (N, K) of a Runge-Kutta step of the mean, at the student's positions.

        A token that is shown on the way (under masks) keeps what was said of it before. Three laws
        of all positions are there at a time: their sum, what was said last, and what is said now.
        """
        (x_t, size), t, mean = at, student.t, step.peers["mean"]
        middle, end = t - size / 2, (t - size).clamp_min(EARLIEST / 2)
        code, rule = size_code(mean, x_t, size / 2), self.sampler.base
        moves = [(t, middle), (middle, end), (middle, end)]
        if not self.chained:
            moves = [(t, middle), (t, middle), (t, end)]
        x, left, total = x_t, student.places, None
        for weight, now, move in zip((1, 2, 2, 1), (t, middle, middle, end), [*moves, None]):  # noqa: B905
            if total is None or len(left) == len(student.places):
                said = None  # all is said anew
            here = step.look(mean, x, now, left, **code).prediction.log_conditional.squeeze(1)
            said = here if said is None else said.index_copy_(0, student.numbers_of(left), here)
            del here
            if total is None:
                total = said.clone()
            else:
                total.add_(said, alpha=weight)
            if move is None:
                break
            start, then = move
            start_at = x if self.chained else x_t
            open_ = Places.of(step.open(start_at))
            law = Local(Prediction(said[:, None]), student.places, start)
            if len(open_) < len(student.places):
                law = Local(Prediction(law.log_conditional_at(open_)[:, None]), open_, start)
            x = step_back(step, start_at, law, then, rule)[0]
            del law
            left = Places.of(step.open(x))
        for some in chunks(total):
            total[some] = (total[some] / 6).log_softmax(-1)
        return total
