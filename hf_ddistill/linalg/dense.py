"""A plain (batch of) K x K matrix, for small vocabularies."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hf_ddistill.linalg.operator import LinearOperator


@dataclass(frozen=True)
class Dense(LinearOperator):
    """A matrix kept as it is.

    Args:
        matrix: float64, (K, K) or (B, K, K).
    """

    matrix: Tensor

    @property
    def size(self) -> int:
        return self.matrix.shape[-1]

    def vecmat(self, v: Tensor) -> Tensor:
        return v @ self.matrix.to(device=v.device, dtype=v.dtype)

    def rows(self, x: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
        return _pick(self.matrix, x).to(dtype)

    def columns(self, y: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
        return _pick(self.matrix.mT, y).to(dtype)

    def inverse(self) -> Dense:
        return Dense(torch.linalg.inv(self.matrix))

    def magnitude(self) -> Dense:
        return Dense(self.matrix.abs())

    def exp(self, sigma: Tensor) -> Dense:
        sigma = torch.as_tensor(sigma, dtype=torch.float64)
        return Dense(torch.matrix_exp(sigma[..., None, None] * self.matrix.to(sigma.device)))

    def __matmul__(self, other: LinearOperator) -> Dense:
        if not isinstance(other, Dense):
            raise ValueError(
                f"A dense operator is multiplied by another dense one, got {type(other).__name__}."
            )
        return Dense(self.matrix @ other.matrix)


def _pick(matrix: Tensor, x: Tensor) -> Tensor:
    matrix = matrix.to(x.device)
    if matrix.ndim == 2:
        return matrix[x]
    return matrix.gather(1, x[..., None].expand(*x.shape, matrix.shape[-1]))
