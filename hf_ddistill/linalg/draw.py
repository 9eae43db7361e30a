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

from hf_ddistill.linalg.checks import require
from hf_ddistill.linalg.row_streams import RowStreams
from hf_ddistill.shapes import Chooser, Generators

#: Up to this many tokens one sum over all of them is the quickest.
SMALL = 256
#: How many weights are made at a time: few enough for a processor's cache.
CHUNK = 2**20


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
        return _sent(numbers, device)
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
        return _sent(torch.stack(rows), device)
    return torch.stack([row.to(device) for row in rows])


def _sent(numbers: Tensor, device: torch.device | str | None) -> Tensor:
    """Numbers on a device; from the CPU nobody waits until they are there."""
    return numbers.to(device, non_blocking=numbers.device.type == "cpu")


def categorical(probs: Tensor, generator: Generators = None, noise: Tensor | None = None) -> Tensor:
    """Draw a token from each distribution along the last dimension.

    Args:
        probs: (..., K), non-negative; need not be normalised.
        generator: one, or one for each row of the first dimension.
        noise: (...), uniform numbers to use instead of the generator's (a shared-noise coupling).

    Returns:
        int64 tokens of shape (...).

    Raises:
        ValueError: if a distribution is not finite or has no mass; on a device within
            `asked_at_the_end`, at its end.
    """
    return _inverse(probs.detach(), None, generator, noise)


def categorical_of_logs(
    log_probs: Tensor, generator: Generators = None, noise: Tensor | None = None
) -> Tensor:
    """The same draw from log-probabilities (..., K), whose probabilities are made a few at a time:
    no second tensor of that size is."""
    return _inverse(log_probs.detach(), torch.exp, generator, noise)


def _inverse(
    values: Tensor, weigh: Callable[..., Tensor] | None, generator: Generators, noise: Tensor | None
) -> Tensor:
    """The inverse of the cumulative distribution by two looks: among the sums of blocks, and within
    the block that was drawn.

    So (..., K) is read once, in its own dtype, and what is in float64 has K / n and n entries. A
    block's sum is as right as its numbers are, and within it no token, however rare, is lost.
    """
    if noise is None and isinstance(generator, Chooser):
        weights = values.double() if weigh is None else weigh(values.double())
        require((weights.sum(-1) > 0) & weights.sum(-1).isfinite(), _no_law)
        return generator.choose(weights)
    size = values.shape[-1]
    block = size if size <= SMALL else 1 << (size.bit_length() + 1) // 2
    cumulative = _sums(values, weigh, 1 if size <= SMALL else block).cumsum(-1)
    total = cumulative[..., -1]
    require((total > 0) & total.isfinite(), _no_law)
    if noise is None:
        noise = uniform_noise(total.shape, generator, values.device)
    target = noise * total
    found = _first_above(cumulative, target)
    if size <= SMALL:
        return found
    before = cumulative.gather(-1, (found - 1).clamp_min(0)[..., None])[..., 0]
    before = before.masked_fill(found == 0, 0.0)
    mass = cumulative.gather(-1, found[..., None])[..., 0] - before
    index = found[..., None] * block + torch.arange(block, device=values.device)
    within = values.gather(-1, index.clamp_max(size - 1)).double()
    within = within if weigh is None else weigh(within)
    within = within.masked_fill(index >= size, 0.0).cumsum(-1)
    target = ((target - before) / mass).clamp(0, 1) * within[..., -1]
    return found * block + _first_above(within, target)


def _sums(values: Tensor, weigh: Callable[..., Tensor] | None, block: int) -> Tensor:
    """The sums of blocks of weights along the last dimension, float64; the last block is shorter
    where they do not divide it."""
    dtype = torch.promote_types(values.dtype, torch.float32)
    if block == 1:
        values = values.double()
        return values if weigh is None else weigh(values)
    size, shape = values.shape[-1], values.shape[:-1]
    whole, rows = size // block * block, values.reshape(-1, size)
    out = torch.empty(len(rows), -(-size // block), dtype=torch.float64, device=values.device)
    some = max(1, (CHUNK if values.device.type == "cpu" else 16 * CHUNK) // size)
    weights = None if weigh is None else rows.new_empty(min(some, len(rows)), size, dtype=dtype)
    for start in range(0, len(rows), some):
        part = rows[start : start + some].to(dtype)
        if weigh is not None:
            part = weigh(part, out=weights[: len(part)])
        to = out[start : start + some]
        to[:, : whole // block] = part[:, :whole].unflatten(-1, (-1, block)).sum(-1)
        if whole < size:
            to[:, -1] = part[:, whole:].sum(-1)
    return out.view(*shape, out.shape[-1])


def _first_above(cumulative: Tensor, target: Tensor) -> Tensor:
    """The first entry at which the sum so far is above the target: never one of probability 0.

    A target of 0 passes over leading ones, and wherever rounding puts a target, no entry behind the
    last that has mass is found.
    """
    found = torch.searchsorted(cumulative, target[..., None].contiguous(), right=True)
    last = torch.searchsorted(cumulative, cumulative[..., -1:].contiguous())
    return torch.minimum(found, last)[..., 0]


def _no_law(wrong: int, total: int) -> str:
    return (
        "Cannot draw: a distribution holds NaN, infinity or no mass at all "
        f"({wrong} of {total} positions)."
    )


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
    require((prob >= 0) & (prob <= 1), _no_coin)  # NaN is neither
    if isinstance(generator, Chooser):
        return generator.choose(torch.stack([1 - prob, prob], -1)).bool()
    return uniform_noise(prob.shape, generator, prob.device) < prob.double()


def _no_coin(wrong: int, total: int) -> str:
    return f"Probabilities are in [0, 1], which {wrong} of {total} are not."


def generators_of(generator: Generators, rows: Tensor) -> Generators:
    """Those of some rows of a batch, given by their numbers; one for all rows stays what it is."""
    if generator is None or isinstance(generator, torch.Generator):
        return generator
    if isinstance(generator, RowStreams | Chooser):
        return generator.of(rows)
    return [generator[row] for row in rows.tolist()]
