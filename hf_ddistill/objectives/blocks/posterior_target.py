"""What a causal language model says of a masked token, given also what is shown to the right of it
in its block.

x a completion of the block, c a token at position i, r the last position that x_t shows; p the
causal model given the finished blocks before; x^{-i} the tokens up to r (those before i, if r < i)
without i:

    p(c | x^{-i}) is proportional to p(c | x^{<i}) p(x^{i+1 .. r} | x^{<i}, c)

Its mean over completions from the posterior of x_t is the posterior p(x^i = c | x_t), by the tower
property; the mean of p(c | x^{<i}), OPDLM's target, is not: it forgets x_t to the right of i.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from hf_ddistill.couplings import Local, TrainingStep
from hf_ddistill.denoisers import Autoregressive
from hf_ddistill.kinds import check_most, of_their_kinds
from hf_ddistill.linalg import categorical_of_logs
from hf_ddistill.objectives.by_position import chunks
from hf_ddistill.parameterizations import log_prob_of
from hf_ddistill.places import Places
from hf_ddistill.shapes import Tokens, Where


@dataclass(frozen=True)
class PosteriorTarget:
    """log of an estimate of p(x^i | x_0^{<block}, x_t^block) at every mask, from the causal model
    `step.peers["teacher"]`.

    The k likeliest candidates at a mask are re-scored up to r; other tokens keep the share that the
    prefix gives them (k = 0 is OPDLM's target). Without `completions` what is masked beside i is
    taken from x_0: exact in the mean where x_0 given x_t follows the teacher, such as the teacher's
    own sequences under random masks. With m of them they are drawn from the student's prediction at
    x_t, and each weighs

        w_j = p(x_j^{-i}) / q(x_j^{-i}),  q(x) = prod over masks of p_student(x^l | x_t)

    self-normalised: what is left of the bias falls as 1 / m. Each completion costs a call of the
    teacher and up to b - 1 more of k times the rows, whatever the number of blocks.

    Where both laws are known, in blocks of 4: a mean KL(posterior || target's mean) of .00038 nats
    a token for OPDLM's .03401 (x_0 of the teacher), and on the student's own rollouts a total
    variation of 0 instead of .267 at one token a call, at the fixed point; trained networks end at
    .200 instead of .318 (`docs/results/exact_blocks.md`).

    Args:
        candidates: k, at least 0; the vocabulary size for all.
        completions: m, at least 1, or None for x_0 alone.

    Raises:
        ValueError: for numbers below these.
    """

    candidates: int = 4
    completions: int | None = None

    @of_their_kinds
    def __post_init__(self) -> None:
        if self.candidates < 0 or (self.completions is not None and self.completions < 1):
            raise ValueError(
                "candidates must be at least 0 and completions at least 1 or None, got "
                f"{self.candidates} and {self.completions}."
            )
        check_most(self, "completions")

    @torch.no_grad()
    def __call__(self, step: TrainingStep, where: Where | Places, proposal: Tensor) -> Tensor:
        """The target (N, 1, K), normalised.

        The teacher is called with `causal=True`, `clean_ids` and `block_size`: it reads the
        candidates in their own block, and x_0 before it.

        Args:
            step: with `x_0` and `trajectory`, which says where blocks are.
            where: (B, L), the N masks of x_t.
            proposal: (N, 1, K), log p_student(. | x_t) there, detached.
        """
        where, q = Places.of(where), proposal[:, 0]
        scope = torch.zeros_like(where.where)
        if self.candidates:
            scope = _scope(step, where.where)
        asked = _Asked(step, where, scope, q, self.candidates)
        if self.completions is None:
            return asked.given(step.x_0)[0][:, None]
        mixed, total = None, None
        for _ in range(self.completions):
            drawn = categorical_of_logs(q, noise=step.numbers(where))
            target, log_p = asked.given(where.put(drawn, step.x_0))
            log_q = where.put(log_prob_of(q, drawn).double(), torch.zeros(where.shape).to(log_p))
            others = _others(log_q, scope, step.trajectory.block_size)
            weight = log_p - where.take(others)
            if mixed is None:
                mixed, total = target, weight
                continue
            new = torch.logaddexp(total, weight)
            shares = ((w - new).to(q)[:, None] for w in (total, weight))
            _mix(mixed, target, *shares)
            total = new
        return mixed[:, None]


def _scope(step: TrainingStep, where: Where) -> Where:
    """(B, L), the positions up to r of each block."""
    shown = ~where if step.attend is None else step.attend & ~where
    blocks = shown.unflatten(1, (-1, step.trajectory.block_size))
    return blocks.flip(-1).cummax(-1).values.flip(-1).flatten(1)


@dataclass(frozen=True)
class _Asked:
    """What is asked about the masks of one state.

    Args:
        step: with the teacher.
        where: the N masks.
        scope: (B, L), the positions up to r of each block.
        q: (N, K), the log-probabilities that candidates are chosen by, with the teacher's.
        candidates: k.
    """

    step: TrainingStep
    where: Places
    scope: Where
    q: Tensor
    candidates: int

    def given(self, x: Tokens) -> tuple[Tensor, Tensor]:
        """log p(. | x^{-i}) (N, K) at the masks, and log p(x^{-i}) (N,) up to what the candidates
        miss."""
        step, size = self.step, self.step.trajectory.block_size
        local = _scored(step, x, self._real)
        of_tokens = local.per_token(local.log_prob_of(x).double()).unflatten(1, (-1, size))
        before = self.where.take((of_tokens.cumsum(-1) - of_tokens).flatten(1))
        prior, numbers = local.prediction.log_conditional[:, 0], local.numbers_of(self.where)
        del local
        if not self.candidates:
            return prior.index_select(0, numbers), before
        k = min(self.candidates, self.q.shape[-1] - 1)
        pieces = [numbers[some] for some in chunks(self.q)]
        index = torch.cat(
            [
                torch.logaddexp(prior[at], q).topk(k, -1).indices
                for at, q in zip(pieces, map(self.q.__getitem__, chunks(self.q)), strict=True)
            ]
        )
        prior = prior.index_select(0, numbers)
        first = prior.gather(-1, index).double()
        scores = self._rescored(x, index, first)
        kept = first.logsumexp(-1, keepdim=True)
        total = scores.logsumexp(-1, keepdim=True)
        target = prior.scatter_(-1, index, (scores - total + kept).to(prior))
        for some in chunks(target):
            target[some] = target[some].log_softmax(-1)
        return target, before + (total - kept)[:, 0]

    @cached_property
    def _real(self) -> Places:
        attend = self.step.attend
        if attend is not None:
            return Places.of(attend)
        shape = self.where.shape
        return Places(torch.arange(shape[0] * shape[1], device=self.q.device), shape)

    @cached_property
    def _plan(self) -> list[tuple[Tensor, Where, Where, list[int]]]:
        """For each position of a block but the last: the rows with a mask there that is asked
        about, where, the positions behind that are read, and how many both are. The device is
        waited for once."""
        size, device = self.step.trajectory.block_size, self.q.device
        place = torch.arange(self.where.shape[1], device=device) % size
        here = [self.where.where & self.scope & (place == offset) for offset in range(size - 1)]
        behind = [self.scope & self._real.where & (place >= offset) for offset in range(size - 1)]
        if not here:
            return []
        counts = torch.stack([torch.stack(here).sum(-1), torch.stack(behind).sum(-1)]).tolist()
        plan = []
        for offset, (each, read) in enumerate(zip(*counts, strict=True)):
            rows = [row for row, count in enumerate(each) if count]
            number = [sum(each), sum(read[row] for row in rows)]
            if rows:
                index = torch.tensor(rows).to(device, non_blocking=True)
                plan.append((index, here[offset][index], behind[offset][index], number))
        return plan

    def _rescored(self, x: Tokens, index: Tensor, scores: Tensor) -> Tensor:
        """log p(c, x^{i+1 .. r} | x^{<i}) of the candidates (N, k); `scores` where nothing is
        behind. One candidate at a time, so that no more is held than of all masks."""
        size, scores = self.step.trajectory.block_size, scores.clone()
        length = self.where.shape[1]
        for rows, here, behind, counts in self._plan:
            here, behind = Places.of(here, counts[0]), Places.of(behind, counts[1])
            whole = rows.index_select(0, here.rows) * length + here.positions
            part = torch.searchsorted(self.where.index, whole)
            for c in range(index.shape[1]):
                tried = here.put(index[part, c], x[rows])
                local = _scored(self.step.rows(rows), tried, behind)
                each = local.per_token(local.log_prob_of(tried).double())
                total = each.unflatten(1, (-1, size)).sum(-1).repeat_interleave(size, 1)
                scores[part, c] = here.take(total)
        return scores


def _mix(mixed: Tensor, target: Tensor, old: Tensor, new: Tensor) -> None:
    """log (e^old p + e^new q) in the place of log p, (N, K)."""
    for some in chunks(mixed):
        mixed[some] = torch.logaddexp(mixed[some] + old[some], target[some] + new[some])


def _scored(step: TrainingStep, x: Tokens, where: Places) -> Local:
    """log p(x^i | finished blocks of x_0, the tokens of x before i in its block), (N, K)."""
    teacher = Autoregressive(step.peers["teacher"])
    # The candidates of one block are no context of the next: that sees x_0.
    given = {"clean_ids": step.x_0, "block_size": step.trajectory.block_size}
    return step.look(teacher, x, None, where, **given)


def _others(log_q: Tensor, scope: Where, size: int) -> Tensor:
    """log q of the masks of the block up to r and of those before each position, but its own."""
    blocks, within = (some.unflatten(1, (-1, size)) for some in (log_q, scope))
    before = blocks.cumsum(-1) - blocks
    all_within = (blocks * within).sum(-1, keepdim=True) - blocks
    return torch.where(within, all_within, before).flatten(1)
