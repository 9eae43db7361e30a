"""A draft trained to be accepted.

x a state with masks, sigma_1 .. sigma_k the positions that are decided next, in random order;
q_j = q(. | x) and p_j = p_T(. | x, x_0^(sigma_1) .. x_0^(sigma_(j-1))) the laws of the token at
sigma_j that the draft and the teacher give.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from hf_ddistill.couplings import Local, TrainingStep
from hf_ddistill.denoisers import Denoiser
from hf_ddistill.divergences import Divergence
from hf_ddistill.linalg import uniform_noise
from hf_ddistill.objectives.by_position import by_position
from hf_ddistill.objectives.defined_on import require_masks
from hf_ddistill.objectives.objective import Objective
from hf_ddistill.places import Places
from hf_ddistill.samplers.clock import time_of_share
from hf_ddistill.samplers.speculative import check_lookahead
from hf_ddistill.shapes import Scalar, Tokens


def agreement(log_p: Tensor, log_q: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """What `expected_share` is made of, of each of N laws (N, K): sum_y min(p(y), q(y)), and
    min(1, q(x) / p(x)) at tokens x (N,)."""
    place = tokens[:, None]
    ratio = (log_q.gather(-1, place) - log_p.gather(-1, place))[:, 0].clamp_max(0).exp()
    return torch.minimum(log_p.exp(), log_q.exp()).sum(-1), ratio


def compared(
    log_p: Tensor,
    student: Local,
    tokens: Tensor,
    divergence: Divergence | None,
    numbers: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """`agreement` of laws log p (N, K) with a student's there, and their divergence, 0 where there
    is none.

    Args:
        log_p: of the teacher.
        student: its prediction.
        tokens: (N,).
        divergence: D.
        numbers: (N,), the student's positions that these are; its own, in order, if not given.
    """

    def of_each(some: slice, log_q: Tensor, log_p: Tensor) -> Tensor:
        parts = agreement(log_p[some], log_q, tokens[some])
        distance = torch.zeros_like(parts[0])
        if divergence is not None:
            distance = divergence(log_p[some], log_q)
        return torch.stack([*parts, distance], -1)

    found = by_position(of_each, student.prediction.log_conditional, numbers, of=(log_p,))
    found = found if numbers is None else found.index_select(0, numbers)
    return found.unbind(-1)


def expected_share(overlap: Tensor, ratio: Tensor, counts: Tensor) -> Tensor:
    """The share of k drafts that is kept in expectation, with gradients in both laws.

    Draft j is kept if those before it are and it is itself, so that of all k

        A = sum_j E_(d ~ q) prod_(i < j) min(1, p_i / q_i)(d_i) (1 - TV(p_j(. | d_1 ..), q_j))
          = sum_j E_(x ~ p) prod_(i < j) min(1, q_i / p_i)(x_i) sum_y min(p_j(y | x_1 ..), q_j(y))

    are kept, since q min(1, p / q) = min(p, q) = p min(1, q / p). The second form needs no draw of
    the draft, whose gradient would be one of scores: it is that of what stands there.

    Args:
        overlap: (..., k), sum_y min(p_j, q_j), p_j given the tokens x before.
        ratio: (..., k), min(1, q_j / p_j) at x_j; x of the teacher's law.
        counts: (..., k) bool, which of the k there are, in this order.

    Returns:
        (...), A by their number; 0 where there is none.
    """
    ratio = torch.where(counts, ratio, torch.ones_like(ratio))
    before = torch.cat([torch.ones_like(ratio[..., :1]), ratio.cumprod(-1)[..., :-1]], -1)
    return (before * overlap * counts).sum(-1) / counts.sum(-1).clamp_min(1)


@dataclass(frozen=True)
class Acceptance(Objective):
    """E[1 - A / k], A the drafts out of k that a teacher keeps (`verify_drafts`) in expectation.

    A is taken at data: n of a row's tokens are masked, n uniform; the draft is asked once, at the
    masks, for k of them; the teacher k times, each time shown one more of x_0. That is exact where
    x_0 has the teacher's law. `expected_share` says why no token of the draft is drawn.

    A draft of one call does not see its other tokens, and the teacher does. Matched position by
    position by a KL, q_j is the mean of p_j over what may come before; A asks for the q_j that
    agrees with one course of it, so that fewer drafts die early. The first of them alone has p_1
    itself for its optimum.

    Args:
        lookahead: k; fewer where fewer are masked.
        divergence: None for A; or the D of DistillSpec, E mean_j D(p_j, q_j), such as
            "total_variation", 1 - D being what is kept of one draft, or "forward_kl".

    Raises:
        ValueError: for a lookahead below 1, and for a student without masks.
    """

    lookahead: int = 4
    divergence: Divergence | Mapping[str, Any] | str | None = None
    id: ClassVar[str] = "acceptance"
    over: ClassVar[str] = "rows"
    citation: ClassVar[str] = (
        "Zhou et al., DistillSpec: Improving Speculative Decoding via Knowledge Distillation, "
        "2023, arXiv:2310.08461"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_lookahead(self.lookahead)
        if self.divergence is not None:
            object.__setattr__(self, "divergence", Divergence.from_config(self.divergence))

    def for_student(self, student: Denoiser) -> Acceptance:
        require_masks(self.id, student.diffusion, "'law_matching' or 'ecd'")
        return self

    def __call__(self, step: TrainingStep) -> dict[str, Scalar]:
        rank, masked = self._order(step)
        k = min(self.lookahead, step.x_0.shape[1])
        counts = torch.arange(k, device=rank.device) < masked[:, None]
        places = rank.argsort(1)[:, :k]
        where = torch.zeros_like(step.trained).scatter(1, places, counts)
        x = self._shown(step, rank, masked, torch.zeros_like(masked))
        student = step.look(step.student, x, self._time(step, x), where)
        # The same positions in their order, as a grid (B, k).
        asked = Places.of(counts, len(student.places))
        found = (where.flatten().cumsum(0) - 1).view_as(where).gather(1, places).clamp_min(0)
        log_p = self._teacher(step, rank, masked, asked)
        tokens = asked.take(step.x_0.gather(1, places))
        *parts, distance = compared(log_p, student, tokens, self.divergence, asked.take(found))
        share = expected_share(*(_grid(part, asked) for part in parts), counts)
        step.log("accepted", step.row_mean(share.detach() * counts.sum(1)))
        if self.divergence is None:
            return {"student": step.row_mean(1 - share)}
        distance = _grid(distance, asked)
        return {"student": step.row_mean(distance.sum(1) / counts.sum(1).clamp_min(1))}

    def _order(self, step: TrainingStep) -> tuple[Tensor, Tensor]:
        """The order (B, L) in which a row's tokens come, those that it does not train behind all
        others; and how many of them are masked, n (B,)."""
        noise = uniform_noise(step.x_0.shape, step.generator, step.x_0.device)
        rank = noise.masked_fill(~step.trained, 2.0).argsort(1).argsort(1)
        share = uniform_noise(step.lengths.shape, step.generator, step.x_0.device)
        return rank, ((share * step.lengths).long() + 1).minimum(step.lengths)

    def _shown(self, step: TrainingStep, rank: Tensor, masked: Tensor, more: Tensor) -> Tokens:
        """x_0 with the first `masked` tokens of the order hidden, but for the first `more`."""
        hidden = (rank < masked[:, None]) & (rank >= more[:, None]) & step.trained
        return step.x_0.masked_fill(hidden, step.diffusion.process.mask_token_id)

    def _time(self, step: TrainingStep, x: Tokens) -> Tensor:
        real = torch.ones_like(x) if step.attend is None else step.attend
        hidden = step.diffusion.undetermined(x) & real.bool()
        return time_of_share(step.diffusion, hidden.sum(1) / real.sum(1).clamp_min(1))

    @torch.no_grad()
    def _teacher(self, step: TrainingStep, rank: Tensor, masked: Tensor, asked: Places) -> Tensor:
        """log p_j of those that count, (N, K): a row of one call for each."""
        rows, more = asked.rows, asked.positions
        part = step.rows(rows)
        x = self._shown(part, rank[rows], masked[rows], more)
        here = Places.of(rank[rows] == more[:, None], len(asked))
        local = part.look(step.peers["teacher"], x, self._time(part, x), here)
        return local.prediction.log_conditional[:, 0]


def _grid(values: Tensor, asked: Places) -> Tensor:
    """Numbers (N,) in the places that count of (B, k), 0 elsewhere."""
    return asked.put(values, values.new_zeros(asked.shape))
