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
    block_size: int | None = None,
    generator: Generators = None,
    **condition: Tensor,
) -> Tensor:
    """(orders, B) float64, the log-probability of each row in nats, by one random order each.

    A consistent denoiser gives the same in all orders; of any other, each is the log-probability
    of a sampler that reveals one token a call, and the logarithm of their mean that of the one
    which draws its order. With an input for noise, it is that of the noise of each call.

    References:
        Hoogeboom et al., Autoregressive Diffusion Models, 2021, arXiv:2110.02037, Eq. 5

    Args:
        denoiser: of a process with masks; L calls an order, or those of a block. With blocks one
            that reads `clean_ids`.
        x_0: clean tokens (B, L).
        orders: how many.
        real: (B, L), where tokens count; the others are seen from the start.
        block_size: of a model whose attention has blocks: they come one after another, each in an
            order of its own. Divides L.
        generator: of the orders, and of the noise.
        **condition: inputs of the network beside (x_t, t), such as `attention_mask`.

    Raises:
        ValueError: for a process without a mask, or no order.
    """
    mask = _mask_of(denoiser)
    if orders < 1:
        raise ValueError(f"orders must be at least 1, got {orders}.")
    real = torch.ones_like(x_0, dtype=torch.bool) if real is None else real
    # Each block sees those before it as they are, so that all of them are asked at once.
    seen = condition if block_size is None else {**condition, "clean_ids": x_0}
    blocks = real.unflatten(1, (-1, block_size or x_0.shape[1]))
    total = torch.zeros(orders, len(x_0), dtype=torch.float64, device=x_0.device)
    for order in range(orders):
        noise = uniform_noise(x_0.shape, generator, x_0.device).view_as(blocks)
        ranks = noise.masked_fill(~blocks, 2.0).argsort(-1).argsort(-1).flatten(1)
        for call in range(int(blocks.sum(-1).max())):
            hidden = real & (ranks >= call)
            places = Places.of(real & (ranks == call))
            x_t = torch.where(hidden, mask, x_0)
            share = hidden.sum(1) / real.sum(1).clamp_min(1)
            said = _at(denoiser, x_t, share, places, generator, **seen)
            local = said.gather(-1, places.take(x_0)[:, None])[:, 0]
            total[order].index_add_(0, places.rows, local)
    return total


@torch.no_grad()
def mutation_scores(
    denoiser: Denoiser,
    x_0: Tokens,
    *,
    real: Where | None = None,
    batch_size: int = 32,
    generator: Generators = None,
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
        generator: of the noise, where the denoiser has an input for it.

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
        share = where.double().mean(1)
        said = _at(denoiser, x_t, share, Places.of(where), generator)
        scores[chosen] = said - said.gather(-1, x_0[chosen][:, None])
    return scores


def _mask_of(denoiser: Denoiser) -> int:
    process = denoiser.diffusion.process
    if not denoiser.diffusion.reveals:
        raise ValueError(
            f"The process {process.id!r} is not of masks alone, by which a sequence is scored "
            "token by token; use its likelihood bound."
        )
    return process.mask_token_id


def _at(
    denoiser: Denoiser,
    x_t: Tokens,
    share: Tensor,
    places: Places,
    generator: Generators,
    **condition: Tensor,
) -> LogProbs:
    """log p (N, K) at some positions of states whose share of masks (B,) tells the time."""
    t = None
    if denoiser.needs_time:
        total = -torch.log1p(-share.double().clamp(1e-6, 1 - 1e-12))
        t = denoiser.diffusion.schedule.inverse(total)
    noise = denoiser.fresh_noise(x_t, generator)
    return denoiser.at(x_t, t, places, **condition, **noise).log_conditional[:, 0].double()
