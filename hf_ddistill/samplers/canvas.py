"""What a sample is drawn on: given tokens, and the positions to be generated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from hf_ddistill.shapes import Tokens, Where


@dataclass(frozen=True)
class Canvas:
    """Given tokens, and the positions to be generated.

    Args:
        tokens: (B, L), the given ones where `infill` is False.
        infill: (B, L), True where a token is to be generated.
    """

    tokens: Tokens
    infill: Where

    @classmethod
    def empty(cls, shape: Sequence[int], device: torch.device | str | None = None) -> Canvas:
        """One of shape (B, L) on which nothing is given."""
        tokens = torch.zeros(tuple(shape), dtype=torch.int64, device=device)
        return cls(tokens, torch.ones_like(tokens, dtype=torch.bool))

    def to(self, device: torch.device) -> Canvas:
        """The same on a device."""
        return type(self)(self.tokens.to(device), self.infill.to(device))

    def hold(self, x: Tokens) -> Tokens:
        """`x` with the given tokens in their places."""
        return torch.where(self.infill, x, self.tokens)
