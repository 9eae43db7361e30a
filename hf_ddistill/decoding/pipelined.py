"""Which blocks of a row are decoded at the same time.

nb blocks in each row, of which a share in [0, 1] of the tokens is decided; the head is the first
block that is not finished.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Pipelining:
    """Blocks that are decoded before those on their left are finished.

    A block enters as soon as the one before has a share `add` of its tokens. Until the one before
    has a share `activate`, only tokens above `confidence` are taken from it; from then on it takes
    what the unmasking rule says, at least one token a call. What a block sees of those before it
    is their state so far, which a student of `d2f` is trained for.

    References:
        Diffusion LLMs Can Do Faster-Than-AR Inference via Discrete Diffusion Forcing (2025),
        https://arxiv.org/abs/2508.09192
        d3LLM: Ultra-Fast Diffusion LLM using Pseudo-Trajectory Distillation (2026),
        https://arxiv.org/abs/2601.07568

    Args:
        max_blocks: blocks at the same time, from the head on; 1 is one after the other.
        add: share of a block at which the next one enters.
        activate: share of a block at which the next one takes a token in any case.
        confidence: probability that a token needs before that.
    """

    max_blocks: int = 1
    add: float = 0.1
    activate: float = 0.95
    confidence: float = 0.9

    def __post_init__(self) -> None:
        if self.max_blocks < 1:
            raise ValueError(f"max_active_blocks must be at least 1, got {self.max_blocks}.")
        named = {
            "block_add_threshold": self.add,
            "block_activate_threshold": self.activate,
            "early_threshold": self.confidence,
        }
        for name, value in named.items():
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is a share or a probability in [0, 1], got {value}.")
        if self.add > self.activate:
            raise ValueError(
                f"block_add_threshold={self.add} must not be above block_activate_threshold="
                f"{self.activate}: a block enters before it is activated."
            )

    def active(self, share: Tensor, head: Tensor) -> Tensor:
        """The blocks in work, bool (B, nb).

        Args:
            share: (B, nb), of the tokens that are decided.
            head: (B,) int64, the first block that is not finished.
        """
        number = torch.arange(share.shape[1], device=share.device)
        entered = _before(share >= self.add).cumprod(1).bool()
        near = number < (head + self.max_blocks)[:, None]
        return entered & near & (share < 1)

    def activated(self, share: Tensor) -> Tensor:
        """The blocks that take a token in any case, bool (B, nb)."""
        return _before(share >= self.activate)


def _before(blocks: Tensor) -> Tensor:
    """What holds of the block before each, True at the first."""
    return torch.cat([torch.ones_like(blocks[:, :1]), blocks[:, :-1]], 1)
