"""Categorical draws in float64 by the inverse of the cumulative distribution.

One uniform number per position decides its token. So a draw costs one number instead of K, a row's
draw depends on its own generator alone, and two laws drawn with the same numbers are coupled.
Gumbel noise in float32 is a hidden temperature (Zheng et al., Masked Diffusion Models are Secretly
Time-Agnostic Masked Models, 2024, arXiv 2409.02908); this is not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hf_ddistill.linalg.row_streams import RowStreams
from hf_ddistill.shapes import Chooser, Generators


def uniform_noise(
    shape: Sequence[int], generator: Generators, device: torch.device | str | None = None
) -> Tensor:
    """Uniform float64 numbers in [0, 1), drawn on the generator's device and moved to `device`.

    Args:
        shape: rows first.
        generator: one for all rows, or a sequence with one for each row (a row then never depends
            on its batch).
        device: where the numbers go.

    Raises:
        ValueError: if there are not as many generators as rows, or a `Chooser` stands for them.
    """
    return _drawn(torch.rand, shape, generator, device)


def normal_noise(
    shape: Sequence[int], generator: Generators, device: torch.device | str | None = None
) -> Tensor:
    """Standard normal float64 numbers, drawn like `uniform_noise`."""
    if isinstance(generator, RowStreams):
        # torch draws them in groups of sixteen, so that the last ones hang on how many there are.
        uniform = uniform_noise(shape, generator, device).clamp_min(2**-53)
        return math.sqrt(2) * torch.erfinv(2 * uniform - 1)
    return _drawn(torch.randn, shape, generator, device)


def _drawn(
    law: Callable[..., Tensor],
    shape: Sequence[int],
    generator: Generators,
    device: torch.device | str | None,
) -> Tensor:
    if isinstance(generator, Chooser):
        raise ValueError(
            "Numbers of a continuous law cannot be enumerated: what has an exact law draws through "
            "`categorical` or `bernoulli` alone."
        )
    if isinstance(generator, RowStreams) and len(generator) != shape[0]:
        generator = generator.joint()
    if generator is None or isinstance(generator, torch.Generator):
        source = device if generator is None else generator.device
        numbers = law(tuple(shape), generator=generator, dtype=torch.float64, device=source)
        return numbers.to(device)
    if len(generator) != shape[0]:
        raise ValueError(
            f"Got {len(generator)} generators for {shape[0]} rows; give one for each row, "
            "or one for all."
        )
    rows = [
        law(tuple(shape[1:]), generator=g, dtype=torch.float64, device=g.device) for g in generator
    ]
    if not rows:  # which `stack` does not take
        return torch.empty(tuple(shape), dtype=torch.float64, device=device)
    if len({row.device for row in rows}) == 1:
        return torch.stack(rows).to(device)
    return torch.stack([row.to(device) for row in rows])


def categorical(probs: Tensor, generator: Generators = None, noise: Tensor | None = None) -> Tensor:
    """Draw a token from each distribution along the last dimension.

    Args:
        probs: (..., K), non-negative; need not be normalised.
        generator: one, or one for each row of the first dimension.
        noise: (...), uniform numbers to use instead of the generator's (a shared-noise coupling).

    Returns:
        int64 tokens of shape (...).

    Raises:
        ValueError: if a distribution is not finite or has no mass.
    """
    cumulative = probs.cumsum(-1, dtype=torch.float64)
    total = cumulative[..., -1]
    if not bool(((total > 0) & total.isfinite()).all()):
        raise ValueError(
            "Cannot draw: a distribution holds NaN, infinity or no mass at all "
            f"({int((~((total > 0) & total.isfinite())).sum())} of {total.numel()} positions)."
        )
    if noise is None and isinstance(generator, Chooser):
        return generator.choose(probs)
    if noise is None:
        noise = uniform_noise(total.shape, generator, probs.device)
    # `right=True`: u == 0 never picks a leading token of probability zero.
    found = torch.searchsorted(cumulative, (noise * total).unsqueeze(-1), right=True).squeeze(-1)
    return found.clamp_max(probs.shape[-1] - 1)


def categorical_at(probs: Tensor, where: Tensor, generator: Generators = None) -> Tensor:
    """Draw at some positions of a batch what `categorical` would draw there.

    Args:
        probs: (N, K), at the N positions of `where`, row by row.
        where: (B, L) bool.
        generator: one, or one for each of the B rows: its numbers are those of all of (B, L), so
            that a row's tokens do not hang on where others are drawn.

    Returns:
        int64 (N,).

    Raises:
        ValueError: as `categorical`.
    """
    if isinstance(generator, Chooser):
        elsewhere = torch.nn.functional.one_hot(torch.zeros_like(where).long(), probs.shape[-1])
        whole = elsewhere.to(probs.dtype)
        whole[where] = probs
        return categorical(whole, generator)[where]
    noise = uniform_noise(where.shape, generator, probs.device)
    return categorical(probs, noise=noise[where])


def bernoulli(prob: Tensor, generator: Generators = None) -> Tensor:
    """Flip a coin at each entry: True where its uniform number lies under `prob`.

    Args:
        prob: the probability of True, rows first; numbers are compared in float64.
        generator: one, or one for each row of the first dimension.

    Returns:
        Booleans of the shape of `prob`.

    Raises:
        ValueError: if a probability is NaN or not in [0, 1].
    """
    if prob.numel():
        low, high = (float(end) for end in prob.detach().aminmax())
        if not (low >= 0 and high <= 1):  # which NaN is not, either
            raise ValueError(f"Probabilities are in [0, 1], got values from {low} to {high}.")
    if isinstance(generator, Chooser):
        return generator.choose(torch.stack([1 - prob, prob], -1)).bool()
    return uniform_noise(prob.shape, generator, prob.device) < prob.double()


def generators_of(generator: Generators, rows: Tensor) -> Generators:
    """Those of some rows of a batch, given by their numbers; one for all rows stays what it is."""
    if generator is None or isinstance(generator, torch.Generator):
        return generator
    if isinstance(generator, RowStreams | Chooser):
        return generator.of(rows)
    return [generator[row] for row in rows.tolist()]
