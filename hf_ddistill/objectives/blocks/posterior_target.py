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

import torch
from torch import Tensor

from hf_ddistill.couplings import TrainingStep
from hf_ddistill.denoisers import Autoregressive
from hf_ddistill.parameterizations import log_prob_of
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

    def __post_init__(self) -> None:
        if self.candidates < 0 or (self.completions is not None and self.completions < 1):
            raise ValueError(
                "candidates must be at least 0 and completions at least 1 or None, got "
                f"{self.candidates} and {self.completions}."
            )

    @torch.no_grad()
    def __call__(self, step: TrainingStep, where: Where, proposal: Tensor) -> Tensor:
        """The target (N, 1, K), normalised.

        The teacher is called with `causal=True`, `clean_ids` and `block_size`: it reads the
        candidates in their own block, and x_0 before it.

        Args:
            step: with `x_0` and `trajectory`, which says where blocks are.
            where: (B, L), the N masks of x_t.
            proposal: (N, 1, K), log p_student(. | x_t) there, detached.
        """
        q = proposal[:, 0].double()
        about = (q, self.candidates)
        scope = _scope(step, where) if self.candidates else torch.zeros_like(where)
        if self.completions is None:
            return _given(step, where, scope, step.x_0, about)[0][:, None].to(proposal)
        targets, weights = [], []
        for _ in range(self.completions):
            drawn = step.draw(q.exp(), where)
            x = step.x_0.masked_scatter(where, drawn)
            target, log_p = _given(step, where, scope, x, about)
            log_q = torch.zeros(where.shape, dtype=q.dtype, device=q.device)
            log_q = log_q.masked_scatter(where, log_prob_of(q, drawn))
            targets.append(target)
            weights.append(log_p - _others(log_q, scope, step.trajectory.block_size)[where])
        share = torch.stack(weights).log_softmax(0)
        mixed = torch.logsumexp(torch.stack(targets) + share[..., None], 0)
        return mixed[:, None].to(proposal)


def _scope(step: TrainingStep, where: Where) -> Where:
    """(B, L), the positions up to r of each block."""
    shown = ~where if step.attend is None else step.attend & ~where
    blocks = shown.unflatten(1, (-1, step.trajectory.block_size))
    return blocks.flip(-1).cummax(-1).values.flip(-1).flatten(1)


def _given(
    step: TrainingStep, where: Where, scope: Where, x: Tokens, about: tuple[Tensor, int]
) -> tuple[Tensor, Tensor]:
    """log p(. | x^{-i}) (N, K) at the masks, and log p(x^{-i}) (N,) up to what the candidates
    miss."""
    (q, candidates), size = about, step.trajectory.block_size
    real = torch.ones_like(where) if step.attend is None else step.attend
    local = _scored(step, x, real)
    prior = local[where[real]]
    of_tokens = torch.zeros(where.shape, dtype=prior.dtype, device=prior.device)
    chosen = log_prob_of(local, x[real])
    of_tokens = of_tokens.masked_scatter(real, chosen).unflatten(1, (-1, size))
    before = (of_tokens.cumsum(-1) - of_tokens).flatten(1)[where]
    if not candidates:
        return prior, before
    index = torch.logaddexp(prior, q).topk(min(candidates, q.shape[-1] - 1), -1).indices
    scores = _rescored(step, where, scope & real, x, (index, prior))
    kept = prior.gather(-1, index).logsumexp(-1, keepdim=True)
    total = scores.logsumexp(-1, keepdim=True)
    target = prior.scatter(-1, index, scores - total + kept)
    return target.log_softmax(-1), before + (total - kept)[:, 0]


def _rescored(
    step: TrainingStep, where: Where, scope: Where, x: Tokens, about: tuple[Tensor, Tensor]
) -> Tensor:
    """log p(c, x^{i+1 .. r} | x^{<i}) of the candidates (N, k)."""
    (index, prior), size = about, step.trajectory.block_size
    place, k = torch.arange(x.shape[1], device=x.device) % size, index.shape[1]
    scores = prior.gather(-1, index)
    for offset in range(size - 1):
        here = where & scope & (place == offset)
        rows = here.any(1).nonzero()[:, 0]
        if not len(rows):
            continue
        part = here[where]
        here = here[rows]
        asked = (scope[rows] & (place >= offset)).repeat(k, 1)
        tried = x[rows].repeat(k, 1)
        tried = tried.masked_scatter(here.repeat(k, 1), index[part].mT.flatten())
        log_p = _scored(step.rows(rows.repeat(k)), tried, asked)
        each = torch.zeros(asked.shape, dtype=log_p.dtype, device=x.device)
        each = each.masked_scatter(asked, log_prob_of(log_p, tried[asked]))
        total = each.unflatten(1, (-1, size)).sum(-1).repeat_interleave(size, 1)
        scores[part] = total.unflatten(0, (k, -1))[:, here].mT
    return scores


def _scored(step: TrainingStep, x: Tokens, where: Where) -> Tensor:
    """log p(x^i | finished blocks of x_0, the tokens of x before i in its block), (N, K)."""
    teacher = Autoregressive(step.peers["teacher"])
    # The candidates of one block are no context of the next: that sees x_0.
    given = {"clean_ids": step.x_0, "block_size": step.trajectory.block_size}
    local = step.look(teacher, x, None, where, **given)
    return local.prediction.log_conditional.squeeze(1).double()


def _others(log_q: Tensor, scope: Where, size: int) -> Tensor:
    """log q of the masks of the block up to r and of those before each position, but its own."""
    blocks, within = (some.unflatten(1, (-1, size)) for some in (log_q, scope))
    before = blocks.cumsum(-1) - blocks
    all_within = (blocks * within).sum(-1, keepdim=True) - blocks
    return torch.where(within, all_within, before).flatten(1)
