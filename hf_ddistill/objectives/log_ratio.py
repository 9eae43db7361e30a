"""How much likelier the teacher holds what a student drew than the student does itself.

p_T, p_S laws of x_0 under the teacher's and the student's sampler; A the auxiliary, a denoiser that
is trained on the student's samples, and so stands for p_S:

    d(c) = log p_T(c | z) - log p_A(c | z),    R(x_0) = log p_T(x_0) - log p_S(x_0)

The sum of d(x_0^i) over the positions that a view hides, times its weight, has R(x_0) for its mean
(any-order chain rule, `objectives.views`), if both denoisers are exact; read as causal models, the
sum over all of a sequence is R itself. Where nothing is masked the difference of two bounds in
continuous time stands for it: its gradient in p_S is that of R, since A minimises its own bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from hf_ddistill.couplings import Local, TrainingStep
from hf_ddistill.denoisers import Autoregressive, Denoiser
from hf_ddistill.linalg import require
from hf_ddistill.objectives.by_position import ON_CPU
from hf_ddistill.objectives.likelihood_bound import nelbo_density
from hf_ddistill.places import Places
from hf_ddistill.shapes import LOG_ZERO, PerToken, Scalar, Times, Tokens, Where

#: Positions that tell how far an auxiliary lags.
LOOKED_AT = 512


@dataclass(frozen=True)
class LogRatio:
    """d at the N positions of one state that were asked for.

    Args:
        x_0: (B, L), what was drawn.
        teacher: its prediction there, without gradients.
        auxiliary: with gradients, where it is trained at this step.
        of_tokens: (B, L) float64, each token's part of R; 0 elsewhere.
        log_prob_of_auxiliary: (N, 1), log p_A of the token that is there, with its gradients.
        impossible: (B, L), where d of the token that is there is not finite: the teacher (or the
            auxiliary) gives it no probability.
    """

    x_0: Tokens
    teacher: Local
    auxiliary: Local
    of_tokens: PerToken
    log_prob_of_auxiliary: Tensor
    impossible: Where

    @property
    def difference(self) -> Tensor:
        """d (N, K) of every token, without gradients."""
        teacher, auxiliary = self.laws
        return teacher - auxiliary

    @property
    def laws(self) -> tuple[Tensor, Tensor]:
        """log p_T and log p_A (N, K), without gradients."""
        both = self.teacher, self.auxiliary
        return tuple(one.prediction.log_conditional.detach().squeeze(1) for one in both)


def log_ratio(
    step: TrainingStep,
    x_0: Tokens,
    z: Tokens,
    t: Times | None,
    where: Where | Places,
    *,
    causal: bool = False,
    told: Times | None = None,
    **more: Any,
) -> LogRatio:
    """Ask the networks "teacher" and "auxiliary" of a step for x_0 at z.

    Args:
        step: with both, and whether the auxiliary is trained.
        x_0: (B, L), what was drawn.
        z: (B, L), the state; of a causal model the tokens that it reads.
        t: (B,); None for causal models.
        where: (B, L), the positions that are asked for.
        causal: read both as language models from left to right.
        told: (B,), what the auxiliary is told instead of t, where masked states show their t by
            themselves; t if not given.
        **more: inputs of the calls.

    Raises:
        ValueError: if the step lacks one of the two.
    """
    teacher, auxiliary = both_networks(step)
    if causal:
        teacher, auxiliary = Autoregressive(teacher), Autoregressive(auxiliary)
    where = Places.of(where)
    with torch.set_grad_enabled("auxiliary" in step.train and torch.is_grad_enabled()):
        of_auxiliary = step.look(auxiliary, z, t if told is None else told, where, **more)
        # Before any loss, so that on the way back it comes behind what lets the teacher's law go.
        log_prob = of_auxiliary.log_prob_of(x_0)
    # Behind it, since without gradients a prediction takes the place of the logits.
    with torch.no_grad():
        of_teacher = step.look(teacher, z, t, where, **more)
    parts = (of_teacher.log_prob_of(x_0) - log_prob.detach())[:, 0]
    impossible = _impossible(parts)
    if not causal and not step.diffusion.reveals:
        tokens = (where.take(x_0)[:, None], where.take(z)[:, None])
        state = (step.diffusion, *tokens, t.index_select(0, where.rows))
        with torch.no_grad():
            bounds = (
                nelbo_density(local.prediction, *state) for local in (of_auxiliary, of_teacher)
            )
            parts = torch.sub(*bounds)[:, 0]
    return LogRatio(
        x_0,
        of_teacher,
        of_auxiliary,
        of_teacher.per_token(parts.double()[:, None]),
        log_prob,
        where.put(impossible, torch.zeros_like(x_0, dtype=torch.bool)),
    )


@torch.no_grad()
def auxiliary_lag(said: Local, lost: Tensor) -> Scalar:
    """By how much an auxiliary's cross entropy is above its own entropy, nats per token, at up to
    `LOOKED_AT` of the positions that it is trained at.

        E[-sum_c tau(c) log p_A(c | z)] - E[H(p_A(. | z))]

    Both are the same for an auxiliary that knows the law of what the student draws, the mean of its
    targets tau (the token that was drawn, or its law); one that is the teacher still is too certain
    of samples that are none of the teacher's. What the cross entropy would be of an auxiliary that
    has caught up is so known without one.

    Args:
        said: the auxiliary's prediction at N positions.
        lost: (N, 1), its cross entropy there.
    """
    count = len(said.places)
    step = -(-count // LOOKED_AT) or 1
    numbers = torch.arange(0, count, step, device=lost.device)
    total = lost.index_select(0, numbers)[:, 0].double().sum()
    # A few positions at a time, so that no tensor of the size of all logits is made.
    size = said.prediction.log_conditional.shape[-1]
    for some in numbers.split(max(1, ON_CPU // size)):
        total -= torch.special.entr(said.prediction.some(some).exp()).sum(dtype=torch.float64)
    return total / max(len(numbers), 1)


def causal_log_ratio(
    step: TrainingStep,
    x: Tokens,
    where: Places,
    onto: Tensor | None,
    *,
    ask_again: bool = False,
    **more: Any,
) -> tuple[PerToken, Tensor, Scalar]:
    """What `log_ratio` says of tokens x read from left to right, and keeps no law but the
    auxiliary's, where it has gradients: the teacher's is let go before that is made.

    Args:
        step: as there.
        x: (B, L).
        where: the N positions that are asked for.
        onto: (N, K), d of every token is added to it.
        ask_again: keep not even the auxiliary's law, and ask it once more on the way back.
        **more: inputs of the calls.

    Returns:
        d of the tokens (B, L) float64, 0 elsewhere; log p_A of them (N, 1), with its gradients; and
        the auxiliary's lag.

    Raises:
        ValueError: as there, and where d is not finite.
    """
    teacher, auxiliary = map(Autoregressive, both_networks(step))

    # Empty, and so held by nobody, when the auxiliary is asked once more.
    to_add = [] if onto is None else [(onto, -1), (onto, 1)]
    del onto

    def of_tokens(denoiser: Denoiser) -> tuple[Tensor, Scalar | None]:
        said = step.look(denoiser, x, None, where, **more)
        if to_add:
            total, sign = to_add.pop()
            total.add_(said.prediction.log_conditional.detach().squeeze(1), alpha=sign)
        log_prob = said.log_prob_of(x)
        return log_prob, auxiliary_lag(said, -log_prob) if denoiser is auxiliary else None

    with torch.no_grad():
        of_teacher, _ = of_tokens(teacher)
    with torch.set_grad_enabled("auxiliary" in step.train and torch.is_grad_enabled()):
        if ask_again and torch.is_grad_enabled():
            of_auxiliary, lag = checkpoint(of_tokens, auxiliary, use_reentrant=False)
        else:
            of_auxiliary, lag = of_tokens(auxiliary)
    parts = (of_teacher - of_auxiliary.detach())[:, 0]
    _require_possible(~_impossible(parts))
    found = where.put(parts, torch.zeros(x.shape, dtype=torch.float64, device=x.device))
    return found, of_auxiliary, lag


def both_networks(step: TrainingStep) -> tuple[Denoiser, Denoiser]:
    """Teacher and auxiliary of a step.

    Raises:
        ValueError: if it lacks one of the two.
    """
    if missing := {"teacher", "auxiliary"} - set(step.peers):
        raise ValueError(
            f"Law matching needs the networks 'teacher' and 'auxiliary', a trainable copy of the "
            f"teacher; this step lacks {', '.join(sorted(missing))}."
        )
    return step.peers["teacher"], step.peers["auxiliary"]


def check_possible(ratio: LogRatio) -> None:
    """Raise if a log-ratio is not finite, for objectives that leave out no row."""
    _require_possible(~ratio.impossible)


def _impossible(ratios: Tensor) -> Tensor:
    return ~ratios.isfinite() | (ratios.abs() > -LOG_ZERO / 2)


def _require_possible(possible: Tensor) -> None:
    require(
        possible,
        lambda *_: (
            "The teacher gives no probability to a token that the student drew, so that its "
            "log-ratio is not finite; let the student start from the teacher."
        ),
    )
