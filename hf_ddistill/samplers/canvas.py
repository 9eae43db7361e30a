"""What a sample is drawn on: given tokens, and the positions to be generated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hf_ddistill.shapes import Tokens


@dataclass(frozen=True)
class Canvas:
    """Given tokens, and the positions to be generated.

    Args:
        tokens: (B, L), the given ones where `infill` is False.
        infill: (B, L), True where a token is to be generated.

    Raises:
        ValueError: unless both are so.
    """

    tokens: Tensor
    infill: Tensor

    def __post_init__(self) -> None:
        tokens, infill = self.tokens, self.infill
        if tokens.dtype != torch.int64 or tokens.ndim != 2:
            raise ValueError(
                f"Tokens are int64 of shape (B, L), got {tokens.dtype}, {tuple(tokens.shape)}."
            )
        if infill.dtype != torch.bool or infill.shape != tokens.shape:
            raise ValueError(
                f"infill must be Boolean and of the shape of its tokens, {tuple(tokens.shape)}; "
                f"got {infill.dtype}, {tuple(infill.shape)}."
            )

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
