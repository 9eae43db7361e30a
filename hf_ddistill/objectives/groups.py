"""Draws judged against each other: those of a batch, or several of each row."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_ddistill.couplings import TrainingStep
from hf_ddistill.kinds import MOST


def in_groups(step: TrainingStep, size: int) -> TrainingStep:
    """The same step with each row `size` times, one beside the other, each with noise of its
    own."""
    rows = torch.arange(step.x_0.shape[0], device=step.x_0.device)
    return step.rows(rows.repeat_interleave(size))


def less_the_others(rewards: Tensor, good: Tensor) -> Tensor:
    """Each reward (B,) less the mean of that of the other rows of `good`: the mean gradient is the
    same for any number of them."""
    total, count = (rewards * good).sum(), good.to(rewards).sum()
    others = (count - good.to(rewards)).clamp_min(1)
    return rewards - (total - rewards * good) / others


def less_the_others_of(rewards: Tensor) -> Tensor:
    """Each of rewards (B, G) less the mean of the others of its group: the mean gradient is the
    same."""
    size = rewards.shape[1]
    return (rewards - rewards.mean(1, keepdim=True)) * (size / (size - 1))


def standardised(rewards: Tensor) -> Tensor:
    """(R - mean) / (spread + 1e-4) of rewards (B, G) in each group: biased, since the spread hangs
    on what is judged.

    References: Shao et al., DeepSeekMath, 2024, arXiv:2402.03300.
    """
    spread = rewards.std(1, correction=0, keepdim=True)
    return (rewards - rewards.mean(1, keepdim=True)) / (spread + 1e-4)


def check_group(size: int, name: str) -> None:
    """Raise for a group in which nothing can be judged, or whose draws would not end."""
    if not 2 <= size <= MOST:
        raise ValueError(
            f"Objective {name!r}: group must be from 2 to {MOST:,}, got {size:,}: a draw is judged "
            "against the others of its row."
        )
