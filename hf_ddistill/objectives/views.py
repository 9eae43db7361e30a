"""States of a finished sequence at which denoisers are asked for what was hidden of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hf_ddistill.couplings import TrainingStep
from hf_ddistill.couplings.times import EARLIEST
from hf_ddistill.linalg import uniform_noise
from hf_ddistill.shapes import Times, Tokens, Where


@dataclass(frozen=True)
class View:
    """One state of every row's x_0.

    Args:
        z: (B, L), tokens.
        t: (B,), their times.
        where: (B, L), the positions that are asked for there.
        weight: (B,), what their sum counts.
    """

    z: Tokens
    t: Times
    where: Where
    weight: Tensor


def random_view(step: TrainingStep, x_0: Tokens, within: Where, law: str = "uniform") -> View:
    """A random state z of x_0 at which a denoiser is asked for x_0.

    For a process that reveals, n of a row's N positions in `within` are masked, at `where`, and
    N / n * sum over `where` of log p(x_0^i | z) has for its expectation the log-probability of
    these N tokens given the others, if p is exact (the chain rule in random order). For others z is
    x_0 noised up to a uniform t.

    References: Uria et al., A Deep and Tractable Density Estimator, 2014, arXiv:1310.1757.

    Args:
        step: gives process, schedule and randomness.
        x_0: (B, L).
        within: (B, L), the positions that are asked for.
        law: of n: "uniform" in 1 .. N, or "inverse": proportional to 1 / n, with a constant weight,
            which has the same expectation and spreads less.
    """
    if not step.diffusion.reveals:
        t = (1 - uniform_noise((x_0.shape[0],), step.generator, x_0.device)).clamp_min(EARLIEST)
        z = step.given(step.diffusion.corrupt(x_0, t, step.generator))
        return View(z, t, step.open(z) & within, torch.ones_like(t))
    counts = within.sum(1)
    order = uniform_noise(x_0.shape, step.generator, x_0.device).masked_fill(~within, 2.0)
    share = uniform_noise(counts.shape, step.generator, x_0.device)
    masked, weight = _how_many(counts, law, share, x_0.shape[1])
    where = order.argsort(1).argsort(1) < masked[:, None]
    z = x_0.masked_fill(where, step.diffusion.process.mask_token_id)
    return View(z, time_of(step, masked), where, weight)


def step_view(step: TrainingStep, x_0: Tokens, within: Where, t: Times, s: Times) -> View:
    """A random state z of x_0 on the way from t to s, of a process that reveals.

    Each of a row's positions in `within` is revealed between t and s by the chance of an ancestral
    step; of the M that are, some are masked in z as in `random_view`, the others of `within` all.
    With `where` what is masked in z, M / (their number) * sum over `where` of log p(x_0^i | z) has
    for its expectation the log-probability of what that step reveals, given what is shown at t: any
    of the masked positions is as likely the next to be revealed.

    Args:
        step: gives process, schedule and randomness.
        x_0: (B, L).
        within: (B, L), the positions that are masked at t.
        t: (B,).
        s: (B,), before t; at 0 all of `within` is revealed.
    """
    at_s, at_t = (torch.exp(-step.diffusion.schedule.sigma(time)) for time in (s, t))
    chance = ((at_s - at_t) / (1 - at_t)).masked_fill(s <= 0, 1.0)
    noise = uniform_noise(x_0.shape, step.generator, x_0.device)
    revealed = within & (noise < chance[:, None])
    view, later = random_view(step, x_0, revealed), within & ~revealed
    where = (view.where | later) & revealed.any(1, keepdim=True)
    z = view.z.masked_fill(later, step.diffusion.process.mask_token_id)
    masked = (view.where | later).sum(1)
    weight = revealed.sum(1) / masked.clamp_min(1).double()
    return View(z, time_of(step, masked), where, weight)


def time_of(step: TrainingStep, masked: Tensor) -> Times:
    """When so many tokens (B,) of each row are masked in the mean."""
    kept = 1 - masked.double() / step.lengths.clamp_min(1)
    schedule = step.diffusion.schedule
    return torch.where(kept > 0, schedule.inverse(-kept.clamp_min(1e-12).log()), 1.0).clamp(0, 1)


def _how_many(counts: Tensor, law: str, share: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """The number n of masked positions in each row out of its N, and the weight of the row."""
    if law == "uniform":
        masked = ((share * counts).long() + 1).minimum(counts)
        return masked, counts / masked.clamp_min(1).double()
    numbers = torch.arange(1, length + 1, device=counts.device)
    harmonic = (1 / numbers.double()).cumsum(0)
    total = harmonic[counts.clamp_min(1) - 1]
    masked = torch.searchsorted(harmonic, share * total, right=True) + 1
    return masked.minimum(counts), total
