"""The digits of scikit-learn as tokens, and which of them are held out."""

from __future__ import annotations

from typing import NamedTuple

import torch
from sklearn.datasets import load_digits
from torch import Tensor

#: One image in so many is held out.
HELD_OUT = 6


class DigitSplit(NamedTuple):
    """Training and held-out digits: tokens (n, 64) and labels (n,), int64."""

    train_tokens: Tensor
    train_labels: Tensor
    held_out_tokens: Tensor
    held_out_labels: Tensor


def load_digit_tokens(levels: int) -> tuple[Tensor, Tensor]:
    """The 1,797 8 x 8 digits that come with scikit-learn, row by row as tokens.

    Args:
        levels: 2 (is the pixel above 7?), or 3 to 17 equal bands of the raw 0..16.

    Returns:
        tokens (1797, 64) and labels (1797,), int64.

    Raises:
        ValueError: on another number of levels.
    """
    if not 2 <= levels <= 17:
        raise ValueError(
            f"Got levels={levels}; accepted are 2 (pixel > 7) and 3 to 17 bands of the raw 0..16."
        )
    pixels, labels = load_digits(return_X_y=True)
    raw = torch.from_numpy(pixels).to(torch.int64)
    tokens = (raw > 7).to(torch.int64) if levels == 2 else raw * levels // 17
    return tokens, torch.from_numpy(labels).to(torch.int64)


def split_digits(tokens: Tensor, labels: Tensor, seed: int = 0) -> DigitSplit:
    """Hold out every sixth image of a random order by class: 1,497 to train on, 300 to test on."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    order = order[labels[order].argsort(stable=True)]
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    held_out[order[::HELD_OUT]] = True
    return DigitSplit(tokens[~held_out], labels[~held_out], tokens[held_out], labels[held_out])
