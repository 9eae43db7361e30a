"""A student's own few-step sampler, rolled out for training.

A row of a rollout makes n calls at the times 1, 1 - 1/n, ..., 1/n. Rows need not have the same n,
nor stop at the same call: the call that a row stops at draws all of x_0.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hf_ddistill.couplings.step_back import step_back
from hf_ddistill.couplings.times import EARLIEST
from hf_ddistill.couplings.training_step import Local, TrainingStep, record_variety
from hf_ddistill.linalg import uniform_noise
from hf_ddistill.samplers import Sampler, walk
from hf_ddistill.shapes import Tokens, Where


@dataclass(frozen=True)
class Rollout:
    """What a student drew, and how.

    Args:
        x_0: (B, L), drawn at the last call.
        last: the student's prediction at the last call, where x_0 was not certain; with gradients.
        log_probs: (B, C), log-probability of the step at each call before the last, 0 from that of
            a row on; with gradients if asked for, else all 0.
        stop: (B,) int64, the call that drew x_0.
        number: (B, L) int64, the call that decided each token for good, where calls reveal.
        earlier: the predictions of the calls before the last with their rows (a row's call is in it
            if the row had not stopped), and where they decided a token for good; with gradients.
    """

    x_0: Tokens
    last: Local
    log_probs: Tensor
    stop: Tensor
    number: Tensor
    earlier: tuple[tuple[Tensor, Local, Tensor], ...] = ()

    def log_probs_with_last(self) -> Tensor:
        """(B, C + 1), `log_probs` and, at the call that a row stops at, that of x_0 there."""
        drawn = self.x_0[self.last.where][:, None, None]
        log_p = self.last.prediction.log_conditional.gather(-1, drawn)[..., 0]
        last = self.last.per_token(log_p.double()).sum(1)
        none = last.new_zeros(len(last), 1)
        log_probs = torch.cat([self.log_probs, none], 1)
        return log_probs.scatter_add(1, self.stop[:, None], last[:, None])


def call_numbers(step: TrainingStep, any_steps: bool, each_call: bool = False) -> Tensor:
    """The number of calls n of each row, (B,): `student_steps`, or with `any_steps` one of 1, 2, 4,
    ... up to it, each as likely as the others, or with `each_call` each in proportion to n: a row
    that trains one of its calls then trains any of them all alike."""
    rows, most, device = step.x_0.shape[0], step.student_steps, step.x_0.device
    if not any_steps:
        return torch.full((rows,), most, device=device)
    numbers = [2**i for i in range(most.bit_length()) if 2**i <= most]
    choices = torch.tensor(sorted({*numbers, most}), device=device)
    if each_call:
        choices = choices.repeat_interleave(choices)
    share = uniform_noise((rows,), step.generator, device)
    return choices[(share * len(choices)).long()]


def roll_out(
    step: TrainingStep,
    calls: Tensor,
    stop: Tensor,
    sampler: Sampler | str = "ancestral",
    graph: bool = False,
) -> Rollout:
    """Roll the student out of the prior, and record the variety of what it draws.

    Args:
        step: its `x_0` gives only the shape and the context.
        calls: (B,), n of each row.
        stop: (B,), in 0 .. n - 1: the call that draws x_0.
        sampler: of each step before; one with a rule.
        graph: whether the calls before the last keep their gradients.

    Raises:
        ValueError: for a sampler without a rule.
    """
    sampler = Sampler.from_config(sampler)
    shape, device = step.x_0.shape, step.x_0.device
    log_probs, earlier = [], []
    number = stop[:, None].expand(shape).clone()

    def move(x: Tokens, s: Tensor, t: Tensor) -> Tokens:
        call = len(log_probs)
        rows = (stop > call).nonzero()[:, 0]
        part = step.rows(rows)
        here = part.look(step.student, x[rows], t[rows])
        x_s, gained = step_back(part, x[rows], here, s[rows], sampler)
        log_probs.append(gained.new_zeros(shape[0]).index_add(0, rows, gained))
        decided = here.where & ~step.diffusion.undetermined(x_s)
        number[rows] = number[rows].masked_fill(decided, call)
        if graph:
            earlier.append((rows, here, decided))
        return x.index_copy(0, rows, x_s)

    noise = step.given(step.diffusion.prior(shape, step.generator, device))
    times = [1 - call / calls.double() for call in range(int(stop.max()) + 1)]
    with torch.set_grad_enabled(graph and torch.is_grad_enabled()):
        x = walk(times, noise, move)
    last = step.look(step.student, x, 1 - stop / calls.double())
    probs = last.prediction.log_conditional.detach().exp()
    x_0 = last.place(step.draw(probs, last.where), x)
    record_variety(step, x_0)
    none = torch.zeros(shape[0], 0, dtype=torch.float64, device=device)
    log_probs = torch.stack(log_probs, 1) if graph else none
    return Rollout(x_0, last, log_probs, stop, number, tuple(earlier))


def taken(local: Local, where: Tensor) -> Tensor:
    """The log-conditional (N', K) of `local` at the positions of `where` (a part of its own)."""
    return local.prediction.log_conditional[where[local.where], 0]


def views(
    step: TrainingStep, x_0: Tokens, law: str, within: Where, hidden: Where | None = None
) -> tuple[Tokens, Tensor, Tensor, Tensor]:
    """States z of x_0 at which a denoiser is asked for x_0: (z, t, where, weight).

    For a process that reveals, n of a row's N positions in `within` are masked, at `where`, and
    N / n * sum over `where` of log p(x_0^i | z) has for its expectation the log-probability of
    these N tokens given the others, if p is exact (the chain rule in random order). For others z is
    x_0 noised up to a uniform t.

    References: Uria et al., A Deep and Tractable Density Estimator, 2014, arXiv:1310.1757.

    Args:
        law: of n: "uniform" in 1 .. N; "inverse": proportional to 1 / n, with a constant weight and
            the same expectation; "single": one position, with no such expectation.
        within: (B, L), the positions that are asked for.
        hidden: (B, L), positions that are masked, too, and not asked for.

    Returns:
        z (B, L), t (B,), where (B, L), weight (B,).
    """
    if not step.diffusion.reveals:
        t = (1 - uniform_noise((x_0.shape[0],), step.generator, x_0.device)).clamp_min(EARLIEST)
        z = step.given(step.diffusion.corrupt(x_0, t, step.generator))
        return z, t, step.open(z) & within, torch.ones_like(t)
    counts = within.sum(1)
    order = uniform_noise(x_0.shape, step.generator, x_0.device).masked_fill(~within, 2.0)
    share = uniform_noise(counts.shape, step.generator, x_0.device)
    masked, weight = _how_many(counts, law, share)
    where = order.argsort(1).argsort(1) < masked[:, None]
    hidden = torch.zeros_like(within) if hidden is None else hidden
    z = x_0.masked_fill(where | hidden, step.diffusion.process.mask_token_id)
    kept = 1 - (masked + hidden.sum(1)).double() / step.lengths.clamp_min(1)
    schedule = step.diffusion.schedule
    t = torch.where(kept > 0, schedule.inverse(-kept.clamp_min(1e-12).log()), 1.0).clamp(0, 1)
    return z, t, where, weight


def _how_many(counts: Tensor, law: str, share: Tensor) -> tuple[Tensor, Tensor]:
    """The number n of masked positions in each row out of its N, and the weight of the row."""
    if law == "single":
        return counts.clamp_max(1), torch.ones_like(share)
    if law == "uniform":
        masked = ((share * counts).long() + 1).minimum(counts)
        return masked, counts / masked.clamp_min(1).double()
    numbers = torch.arange(1, int(counts.max()) + 1, device=counts.device)
    harmonic = (1 / numbers.double()).cumsum(0)
    total = harmonic[counts.clamp_min(1) - 1]
    masked = torch.searchsorted(harmonic, share * total, right=True) + 1
    return masked.minimum(counts), total
