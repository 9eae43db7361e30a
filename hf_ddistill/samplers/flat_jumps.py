"""Jumps of a reverse process under flat noise, drawn without the rate to each token.

Under P_st[x, y] = a 1[x = y] + v(y), the ratio of y to x_t is a p(y | x_t) / v(x_t) + v(y) S with
S = sum w, w = p(x_0 | x_t) / P_0t[x_0, x_t]: a jump goes to a token of p(. | x_t), or to one of v.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hf_ddistill.diffusion import Diffusion
from hf_ddistill.linalg import (
    ScalarPlusLowRank,
    categorical,
    categorical_of_logs,
    draw_from,
)
from hf_ddistill.parameterizations import Prediction
from hf_ddistill.samplers.interval import interval
from hf_ddistill.shapes import Chooser, Generators, PerToken, Tokens


def draws_flat_jumps(diffusion: Diffusion, generator: Generators) -> bool:
    """Whether `draw_flat_jump` is defined."""
    return (
        diffusion.process.is_flat and not diffusion.reveals and not isinstance(generator, Chooser)
    )


def draw_other(prediction: Prediction, x_t: Tokens, noise: PerToken) -> tuple[PerToken, Tokens]:
    """p(x_t | x_t), and a token that p(x_0 | x_t) draws among all others, by uniform numbers; all
    (B, L)."""

    def look(log_p: Tensor, x: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        here = log_p.gather(-1, x[:, None]).double().exp()
        # Any law will do where nothing but x_t has mass: what it draws is not taken.
        away = torch.where(here < 1, -torch.inf, 0.0).to(log_p.dtype)
        return here[:, 0], categorical_of_logs(log_p.scatter(-1, x[:, None], away), noise=u)

    return prediction.each(look, x_t, noise)


def draw_flat_jump(
    jumps: tuple[ScalarPlusLowRank, Tensor],
    chance: Callable[[Tensor], Tensor],
    x_t: Tokens,
    other: Tokens,
    noise: tuple[PerToken, PerToken],
) -> Tokens:
    """x_s of a step that jumps once or not at all, to each token in proportion to its rate.

    Args:
        jumps: see `flat_jumps`.
        chance: of a jump, from the expected number of jumps (B, L).
        x_t: (B, L).
        other: (B, L), where a jump to a token of p(x_0 | x_t) goes, see `draw_other`.
        noise: twice (B, L), uniform numbers: which law a jump is of, and to which of its tokens.
    """
    kernel, expected = jumps
    total = expected.sum(-1)
    share = chance(total) / torch.where(total > 0, total, 1.0)
    piece = categorical(
        torch.cat([1 - chance(total)[..., None], expected * share[..., None]], -1).clamp_min(0),
        noise=noise[0],
    )
    out = torch.where(piece == 1, other, x_t)
    for j in range(kernel.rank):
        out = torch.where(piece == j + 2, draw_from(kernel.right, j, noise[1], but=x_t), out)
    return out


def flat_jumps(
    here: PerToken, diffusion: Diffusion, x_t: Tokens, s: Tensor | float, t: Tensor | float
) -> tuple[ScalarPlusLowRank, Tensor]:
    """P_0t, and the expected numbers of jumps (B, L, 1 + r) to a token of p(. | x_t) and to one of
    each of the r laws in it, x_t left out; `here` (B, L) is p(x_t | x_t)."""
    s, t = interval(s, t, x_t)
    kernel = diffusion.kernel(torch.zeros_like(t), t)
    other = (x_t + 1) % diffusion.vocab_size
    rate = diffusion.process.rate(diffusion.total_noise(t)).entries(other, x_t)
    width = (t - s) * diffusion.pace(t)
    rate = rate * (width[:, None] if width.ndim else width)
    away, stay = kernel.entries(other, x_t), kernel.entries(x_t, x_t)
    reached = away > 0
    weights = here / stay + torch.where(reached, (1 - here) / away, 0.0)
    rate = rate / torch.where(reached, 1.0, here)
    kept = torch.where(reached, (stay - away) * (1 - here) / away, 0.0)
    fresh = kernel.fresh(x_t) * (kernel.mass(x_t.device) - kernel.laws_at(x_t))
    return kernel, torch.cat([(rate * kept)[..., None], (rate * weights)[..., None] * fresh], -1)
