"""What a student draws in one call from noised data, and what an auxiliary is told of it.

x_t data noised up to t (at t = 1 noise alone); q(. | x_t, noise) the student's law of each token;
x_0 a draw from it; z a state of x_0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hf_ddistill.couplings import Local, TrainingStep, log_variety
from hf_ddistill.couplings.times import EARLIEST
from hf_ddistill.denoisers import Denoiser
from hf_ddistill.linalg import categorical_of_logs, uniform_noise
from hf_ddistill.objectives.by_position import by_position
from hf_ddistill.objectives.log_ratio import LogRatio, auxiliary_lag
from hf_ddistill.objectives.pathwise import mean_of
from hf_ddistill.objectives.views import View
from hf_ddistill.places import Places
from hf_ddistill.shapes import Scalar, Times, Tokens

#: What an auxiliary is trained on: tokens that were drawn, their law, or their law by squares.
TARGETS = ("drawn", "soft", "squared")


@dataclass(frozen=True)
class Generated:
    """A student's draw from x_t.

    Args:
        x_t: (B, L).
        t: (B,).
        student: its prediction where x_0 is not certain; with gradients where it is trained.
        x_0: (B, L), drawn from it.
    """

    x_t: Tokens
    t: Times
    student: Local
    x_0: Tokens

    def noised(self, step: TrainingStep, s: Times) -> View:
        """A state at s of x_0 alone, whatever x_t was, in all of its positions."""
        z = step.given(step.diffusion.corrupt(self.x_0, s, step.generator))
        return View(z, s, step.open(z), torch.ones_like(s))

    def hidden(self, view: View) -> Places:
        """Where the student drew what a view hides; the device is waited for."""
        return Places.of(self.student.where & view.where)

    def bridged(self, step: TrainingStep, s: Times) -> View:
        """z ~ q(z_s | x_0, x_t), a state between both."""
        start, end = step.diffusion.kernel(torch.zeros_like(s), s), step.diffusion.kernel(s, self.t)
        z = step.given(start.bridge(end, self.x_0, self.x_t, step.generator))
        return View(z, s, step.open(z), torch.ones_like(s))


def generate(step: TrainingStep, t: Times) -> Generated:
    """Let the student draw x_0 from data noised up to t (B,), and record their variety."""
    x_t = step.noised(t)
    with torch.set_grad_enabled("student" in step.train and torch.is_grad_enabled()):
        student = step.look(step.student, x_t, t)
    x_0 = drawn(step, student, x_t)
    log_variety(step, x_0)
    return Generated(x_t, t, student, x_0)


def drawn(step: TrainingStep, student: Local, x_t: Tokens) -> Tokens:
    """x_t with a draw of every token that a prediction is of."""
    noise = step.numbers(student.places)[:, None]
    return student.place(categorical_of_logs(student.prediction.log_conditional, noise=noise), x_t)


def uniform_times(step: TrainingStep) -> Times:
    """(B,), each by itself, in [EARLIEST, 1]."""
    noise = uniform_noise((step.x_0.shape[0],), step.generator, step.x_0.device)
    return (1 - noise).clamp_min(EARLIEST)


def grid_times(step: TrainingStep, calls: Tensor | None = None) -> Times:
    """(B,), those of the calls of a student of k: 1, 1 - 1/k, ..., 1/k; k is that of each row
    (B,), or `student_steps`."""
    calls = step.student_steps if calls is None else calls
    return (uniform_times(step) * calls).ceil().clamp_min(1) / calls


#: (log p_A (n, K), log p_T (n, K), what is lost already (n,)) -> (n,).
Beside = Callable[[Tensor, Tensor, Tensor], Tensor]


def told(
    student: Local, ratio: LogRatio, both: Places, targets: str, beside: Beside | None = None
) -> Tensor:
    """What the auxiliary loses at each position (N, 1) of a view, by one of `TARGETS`.

    Of a token that z hides q is the law given all that z shows, so that "soft" has the mean of
    "drawn" and less variance. Where the student drew nothing (x_t had the token) the token counts.

    Args:
        student: its prediction at the call that drew them.
        ratio: what was asked of the draw.
        both: those of its positions that were drawn.
        targets: which.
        beside: what more is lost. All in one pass over the law, which gets one gradient.
    """
    if targets == "drawn" and beside is None:
        return -ratio.log_prob_of_auxiliary
    tokens, numbers = ratio.auxiliary.places.take(ratio.x_0), ratio.auxiliary.numbers_of(both)
    there = torch.zeros_like(tokens).index_copy(0, numbers, student.numbers_of(both))
    drew = torch.zeros_like(tokens, dtype=torch.bool).index_fill(0, numbers, True)
    law = student.prediction.log_conditional.detach().squeeze(1)
    # Where nothing was drawn there may be no law at all.
    laws = (law,) if targets != "drawn" and len(both) else ()

    def lost(some: slice, log_p: Tensor, teacher: Tensor, law: Tensor | None = None) -> Tensor:
        value = -log_p.gather(-1, tokens[some, None])[:, 0]
        if law is not None:
            q = law.index_select(0, there[some]).exp().to(log_p.dtype)
            if targets == "squared":
                soft = (log_p.exp() - q).square().sum(-1) / 2
            else:
                soft = -(q * log_p).sum(-1)
            value = torch.where(drew[some], soft, value)
        return value if beside is None else value + beside(log_p, teacher[some], value)

    log_p = ratio.auxiliary.prediction.log_conditional
    return by_position(lost, log_p, of=(ratio.laws[0], *laws))[:, None]


def told_by_teacher(log_p: Tensor, teacher: Tensor, _: Tensor) -> Tensor:
    """The cross entropy (n,) of the auxiliary on what the teacher says at the same state.

    Beside that on the student's draws its optimum is half way between both laws (D-MMD).
    """
    return -mean_of(teacher, log_p)


def auxiliary_loss(
    step: TrainingStep, ratio: LogRatio, lost: Tensor, cross_entropy: Tensor | None = None
) -> Scalar:
    """Each row's mean of what is lost (N, 1) at the positions that were asked for, by its tokens;
    the cross entropy of what was drawn is recorded, and the auxiliary's lag.

    Args:
        step: of the training.
        ratio: what was asked.
        lost: (N, 1).
        cross_entropy: (N, 1), against the law that is its optimum; that of what was drawn if not
            given.
    """
    asked = ratio.auxiliary.where.sum(1).clamp_min(1)

    def mean(values: Tensor) -> Scalar:
        return step.row_mean(ratio.auxiliary.per_token(values).sum(1) / asked)

    drawn = -ratio.log_prob_of_auxiliary.detach()
    step.log("entropy", mean(drawn))
    taught = drawn if cross_entropy is None else cross_entropy.detach()
    step.log("auxiliary_lag", auxiliary_lag(ratio.auxiliary, taught))
    return mean(lost)


def check_targets(targets: str, name: str, student: Denoiser) -> None:
    """Raise for soft targets where a state shows something of each token."""
    if targets != "drawn" and not student.diffusion.reveals:
        raise ValueError(
            f"Objective {name!r} with targets={targets!r}: under the process "
            f"{student.diffusion.process.id!r} a state tells of the token that was drawn, which "
            "its law before the draw does not know; give targets='drawn'."
        )
