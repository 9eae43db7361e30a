"""Laws for the exact laboratory: each gives every sequence, in product order, and its probability.

Every sequence gets a little more and the law is normalised again: `ExactProblem` takes no zeros.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from sklearn.datasets import load_digits
from torch import Tensor

from hf_ddistill.exact import all_sequences, check_space, sequence_numbers

#: What every patch gets on top of its share.
PATCHES = 1e-5
#: What all bit strings of `parity` get together: as small a share at every length.
PARITY = 1e-4


class ExactLaw(NamedTuple):
    """Sequences (M, L), int64 tokens from 0, and their probabilities (M,), float64.

    `ExactProblem(law.law, law.sequences, diffusion)` puts it under a process.
    """

    sequences: Tensor
    law: Tensor


def digits() -> ExactLaw:
    """The standard problem: 2 x 3 patches of scikit-learn's digits, `pixel > 7`, 64 sequences.

    All positions of all images, 75,474 patches; entropy 3.4612 nats, total correlation 0.6187.
    """
    return _patches(_pixels() > 7, (2, 3), levels=2)


def levels() -> ExactLaw:
    """2 x 2 patches of scikit-learn's digits in 4 ordered levels (0-4, 5-8, 9-12, 13-16), 256
    sequences: for processes that know an order, such as Ordinal."""
    return _patches(_pixels() * 4 // 17, (2, 2), levels=4)


def parity(length: int = 6) -> ExactLaw:
    """Bits that are uniform over even parity: any length - 1 are independent, and fix the last.

    Its total correlation, log 2 but for the smoothing, is all in the whole: the worst case for a
    sampler that draws several positions at once.

    Args:
        length: L, at least 2.

    Raises:
        ValueError: for another length, or one with more than `MAX_STATES` sequences.
    """
    if length < 2:
        raise ValueError(f"Parity ties two positions or more together, got length={length}.")
    check_space(2, length)
    sequences = all_sequences(torch.arange(2), length)
    return _smoothed(sequences, sequences.sum(-1) % 2 == 0, PARITY / len(sequences))


def _pixels() -> Tensor:
    """(1797, 8, 8), 0 to 16."""
    return torch.from_numpy(load_digits().images).to(torch.int64)


def _patches(images: Tensor, size: tuple[int, int], levels: int) -> ExactLaw:
    height, width = size
    found = images.to(torch.int64).unfold(1, height, 1).unfold(2, width, 1).flatten(3).flatten(0, 2)
    counts = sequence_numbers(found, levels).bincount(minlength=levels ** (height * width))
    return _smoothed(all_sequences(torch.arange(levels), height * width), counts, PATCHES)


def _smoothed(sequences: Tensor, weights: Tensor, amount: float) -> ExactLaw:
    law = weights.double() / weights.sum() + amount
    return ExactLaw(sequences, law / law.sum())
