"""Draws from laws of tokens that are made a few positions at a time."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from hf_ddistill.diffusion import Diffusion
from hf_ddistill.linalg import ScalarPlusLowRank, categorical, uniform_noise
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

    Where a kernel is more than a few vectors, making it anew for each piece would cost more than
    the draw, and the law is made whole.

    Args:
        law: see `Law`.
        said: what denoisers say, at least one.
        tokens: (B, L) each, at least one.
        diffusion: says what a kernel is.
        times: s < t, a number each or (B,).
        generator: one, or one for each row.
    """
    s, t = interval(*times, tokens[0])
    if isinstance(generator, Chooser) or not isinstance(diffusion.kernel(s, t), ScalarPlusLowRank):
        return categorical(law(said, tokens, s, t), generator)
    noise = uniform_noise(tokens[0].shape, generator, tokens[0].device)
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
