"""Every sequence of a small vocabulary, and laws that are products over its positions.

Sequences stand in product order: the number of one is read from its tokens in base K, the last
position fastest. A law that is a product over L positions is kept as two halves, of K^h and
K^(L - h) numbers with h = L // 2: all K^L of them never exist for more than one row at a time.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hf_ddistill.diffusion import Diffusion
from hf_ddistill.shapes import Tokens

#: The most token sequences of a space, K^L, that exact laws are computed on.
MAX_STATES = 20_000
#: Numbers of float64 (32 MiB) that a chunk of rows may take.
CHUNK = 2**22


def check_space(vocab_size: int, length: int) -> None:
    """Raise if the K^L sequences are more than `MAX_STATES`, or there is no position."""
    if length < 1:
        raise ValueError(f"A sequence needs at least one position, got length={length}.")
    if vocab_size**length <= MAX_STATES:
        return
    longest = max(n for n in range(MAX_STATES.bit_length()) if vocab_size**n <= MAX_STATES)
    widest = int(MAX_STATES ** (1 / length) + 1e-9)
    fitting = [f"vocab_size={vocab_size} up to length={longest}"] * (longest > 0)
    fitting += [f"length={length} up to vocab_size={widest}"] * (widest > 1)
    fitting = fitting or [f"vocab_size=2 up to length={MAX_STATES.bit_length() - 1}"]
    digits = length * math.log10(vocab_size)
    number = f"{vocab_size**length:,}" if digits < 15 else f"about 10^{digits:.0f}"
    raise ValueError(
        f"vocab_size={vocab_size} (the mask included) and length={length} make "
        f"{number} sequences, exact laws go up to {MAX_STATES:,}; "
        f"{' and '.join(fitting)} would fit."
    )


def all_sequences(tokens: Tensor, length: int) -> Tokens:
    """The n^L sequences of the given tokens (n,), in product order, (n^L, L)."""
    return torch.cartesian_prod(*[tokens] * length).reshape(-1, length)


def sequence_numbers(x: Tensor, vocab_size: int) -> Tensor:
    """The place of sequences (..., L) in product order, int64 (...)."""
    powers = vocab_size ** torch.arange(x.shape[-1] - 1, -1, -1, device=x.device)
    return (x * powers).sum(-1)


def clean_tokens(diffusion: Diffusion) -> Tensor:
    """The tokens that data may hold: all but the noise tokens, ascending."""
    noise = set(diffusion.process.noise_tokens)
    return torch.tensor([token for token in range(diffusion.vocab_size) if token not in noise])


def clean_sequences(diffusion: Diffusion, length: int) -> Tokens:
    """Every sequence that data may hold, in product order."""
    return all_sequences(clean_tokens(diffusion), length)


def rows_per_chunk(vocab_size: int, length: int) -> int:
    """How many rows of two halves of a product take no more than `CHUNK` numbers."""
    return max(1, CHUNK // max(vocab_size * length, vocab_size ** (length - length // 2)))


def halves(factors: Tensor) -> tuple[Tensor, Tensor]:
    """Products over the first L // 2 and over the other positions: (B, L, K) -> (B, K^h), (B,
    K^(L - h))."""
    middle = factors.shape[1] // 2
    return _product(factors[:, :middle]), _product(factors[:, middle:])


def _product(factors: Tensor) -> Tensor:
    out = factors.new_ones(factors.shape[0], 1)
    for factor in factors.unbind(1):
        out = (out[:, :, None] * factor[:, None, :]).flatten(1)
    return out


def marginals(law: Tensor, vocab_size: int, length: int) -> Tensor:
    """Each position's own weights under weights of all sequences: (..., K^L) -> (..., L, K)."""
    sums = [
        law.unflatten(-1, (vocab_size**place, vocab_size, -1)).sum((-3, -1))
        for place in range(length)
    ]
    return torch.stack(sums, -2) if sums else law.new_empty(*law.shape[:-1], 0, vocab_size)
