"""Scores of given sequences under a masked denoiser: their log-probability token by token in random
orders, and what a single change of a token does to it.

    log p_sigma(x) = sum_i log p(x_sigma(i) | x_sigma(1), ..., x_sigma(i-1))
    score(l, a) = log p(x_l = a | x_(-l)) - log p(x_l | x_(-l))
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hf_ddistill.denoisers import Denoiser
from hf_ddistill.linalg import uniform_noise
from hf_ddistill.places import Places
from hf_ddistill.shapes import Generators, LogProbs, Tokens, Where


@torch.no_grad()
def any_order_log_probability(
    denoiser: Denoiser,
    x_0: Tokens,
    *,
    orders: int = 1,
    real: Where | None = None,
    generator: Generators = None,
) -> Tensor:
    """(orders, B) float64, the log-probability of each row in nats, by one random order each.

    A consistent denoiser gives the same in all orders; of any other, each is the log-probability
    of a sampler that reveals one token a call, and the logarithm of their mean that of the one
    which draws its order.

    References:
        Hoogeboom et al., Autoregressive Diffusion Models, 2021, arXiv:2110.02037, Eq. 5

    Args:
        denoiser: of a process with masks; L calls an order.
        x_0: clean tokens (B, L).
        orders: how many.
        real: (B, L), where tokens count; the others are seen from the start.
        generator: of the orders.

    Raises:
        ValueError: for a process without a mask, or no order.
    """
    mask = _mask_of(denoiser)
    if orders < 1:
        raise ValueError(f"orders must be at least 1, got {orders}.")
    real = torch.ones_like(x_0, dtype=torch.bool) if real is None else real
    total = torch.zeros(orders, len(x_0), dtype=torch.float64, device=x_0.device)
    for order in range(orders):
        noise = uniform_noise(x_0.shape, generator, x_0.device)
        ranks = noise.masked_fill(~real, 2.0).argsort(1).argsort(1)
        for call in range(int(real.sum(1).max())):
            x_t = torch.where(real & (ranks >= call), mask, x_0)
            places = Places.of(real & (ranks == call))
            said = _at(denoiser, x_t, real & (ranks >= call), places)
            local = said.gather(-1, places.take(x_0)[:, None])[:, 0]
            total[order].index_add_(0, places.rows, local)
    return total


@torch.no_grad()
def mutation_scores(
    denoiser: Denoiser, x_0: Tokens, *, real: Where | None = None, batch_size: int = 32
) -> Tensor:
    """(L, K) float64, how much likelier each other token would be at each position, all others
    kept: 0 for the token that is there, NaN where `real` is False.

    References:
        Meier et al., Language Models Enable Zero-Shot Prediction of the Effects of Mutations,
        2021, doi:10.1101/2021.07.09.450648 (masked marginals)

    Args:
        denoiser: of a process with masks; L states, each asked at its one mask.
        x_0: one clean sequence (L,).
        real: (L,), the positions that are scored.
        batch_size: states in a call.

    Raises:
        ValueError: for a process without a mask, or more than one sequence.
    """
    mask = _mask_of(denoiser)
    if x_0.ndim != 1:
        raise ValueError(f"One sequence (L,) is scored at a time, got {tuple(x_0.shape)}.")
    real = torch.ones_like(x_0, dtype=torch.bool) if real is None else real
    shape = (len(x_0), denoiser.diffusion.vocab_size)
    scores = torch.full(shape, math.nan, dtype=torch.float64, device=x_0.device)
    for chosen in real.nonzero()[:, 0].split(batch_size):
        where = torch.arange(len(x_0), device=x_0.device) == chosen[:, None]
        x_t = torch.where(where, mask, x_0)
        said = _at(denoiser, x_t, where, Places.of(where))
        scores[chosen] = said - said.gather(-1, x_0[chosen][:, None])
    return scores


def _mask_of(denoiser: Denoiser) -> int:
    process = denoiser.diffusion.process
    if not denoiser.diffusion.reveals:
        raise ValueError(
            f"The process {process.id!r} has no masks, by which a sequence is scored token by "
            "token; use its likelihood bound."
        )
    return process.mask_token_id


def _at(denoiser: Denoiser, x_t: Tokens, masked: Where, places: Places) -> LogProbs:
    """log p (N, K) at some positions of states whose share of masks tells the time."""
    t = None
    if denoiser.needs_time:
        share = masked.double().mean(1).clamp(1e-6, 1)
        t = denoiser.diffusion.schedule.inverse(-torch.log1p(-share.clamp_max(1 - 1e-12)))
    noise = denoiser.fresh_noise(x_t)
    return denoiser.at(x_t, t, places, **noise).log_conditional[:, 0].double()
