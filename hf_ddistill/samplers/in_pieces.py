"""Draws from laws of tokens that are made a few positions at a time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hf_ddistill.diffusion import Diffusion
from hf_ddistill.linalg import ScalarPlusLowRank, categorical, columns_of_batch, uniform_noise
from hf_ddistill.parameterizations import Prediction
from hf_ddistill.samplers.interval import interval
from hf_ddistill.shapes import Chooser, Generators, Probs, Tokens

#: (predictions, tokens (B, L), s, t) -> (B, L, K), each position by itself.
Law = Callable[[tuple[Prediction, ...], tuple[Tokens, ...], Tensor, Tensor], Probs]


def draw_in_pieces(
    law: Law,
    said: tuple[Prediction, ...],
    tokens: tuple[Tokens, ...],
    diffusion: Diffusion,
    times: tuple[Tensor | float, Tensor | float],
    generator: Generators = None,
) -> Tokens:
    """What `categorical` draws from a law, of which no tensor (B, L, K) is made.

    A law makes its kernels anew for each piece. Where these are K x K, a piece has four times as
    many entries, so that they cost little beside it.

    Args:
        law: see `Law`.
        said: what denoisers say, at least one.
        tokens: (B, L) each, at least one.
        diffusion: says what a kernel is.
        times: s < t, a number each or (B,).
        generator: one, or one for each row.
    """
    s, t = interval(*times, tokens[0])
    if isinstance(generator, Chooser):
        return categorical(law(said, tokens, s, t), generator)
    noise = uniform_noise(tokens[0].shape, generator, tokens[0].device)
    if not isinstance(diffusion.kernel(s, t), ScalarPlusLowRank):
        # Whole columns of the batch, since a row's kernel is that of all of its positions.
        size, drawn = 4 * diffusion.vocab_size**2, []
        for part in columns_of_batch(tokens[0], diffusion.vocab_size, size):
            laws = tuple(Prediction(one.log_conditional[:, part]) for one in said)
            here = tuple(each[:, part] for each in tokens)
            drawn.append(categorical(law(laws, here, s, t), noise=noise[:, part]))
        return torch.cat(drawn, 1)
    by_row = (s, t) if s.ndim else ()
    by_row = tuple(time[:, None].expand(noise.shape) for time in by_row)
    count = len(said)

    def look(*given: Tensor) -> tuple[Tensor]:
        """Positions as rows of length one."""
        laws = tuple(Prediction(log_p[:, None]) for log_p in given[:count])
        u, *rest = given[count:]
        here = tuple(each[:, None] for each in rest[: len(tokens)])
        then, now = rest[len(tokens) :] or (s, t)
        return (categorical(law(laws, here, then, now), noise=u[:, None])[:, 0],)

    first, *others = said
    (drawn,) = first.each(look, *others, noise, *tokens, *by_row)
    return drawn
