"""A birth-death rate matrix: a token moves one level up or down at a time.

It is similar to a symmetric tridiagonal matrix (detailed balance), so its exponential is a
`Spectral` operator in an orthogonal basis; for constant rates that basis is the discrete cosine
transform.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from hf_ddistill.linalg.constants import on
from hf_ddistill.linalg.operator import LinearOperator
from hf_ddistill.linalg.spectral import Spectral


@dataclass(frozen=True)
class Tridiagonal(LinearOperator):
    """The generator with `up[i]` the rate of i -> i + 1 and `down[i]` the rate of i + 1 -> i; rows
    sum to 0.

    Args:
        up: float64, (K - 1,), positive.
        down: float64, (K - 1,), positive.
    """

    up: Tensor
    down: Tensor

    @property
    def size(self) -> int:
        return self.up.shape[0] + 1

    @cached_property
    def stationary(self) -> Tensor:
        """The limit law (K,): pi[i] up[i] = pi[i + 1] down[i]."""
        log_pi = torch.cat(
            [torch.zeros(1, dtype=torch.float64), (self.up / self.down).log().cumsum(0)]
        )
        return log_pi.softmax(0)

    @cached_property
    def spectral(self) -> Spectral:
        """pi^-1/2 O diag(lambda) O^T pi^1/2 with O orthogonal."""
        off = (self.up * self.down).sqrt()
        symmetric = torch.diag(self._leaving.neg()) + torch.diag(off, 1) + torch.diag(off, -1)
        eigenvalues, orthogonal = torch.linalg.eigh(symmetric)
        root = self.stationary.sqrt()
        # The largest eigenvalue of a generator is 0; rounding must not let mass grow.
        return Spectral(orthogonal / root[:, None], orthogonal.mT * root, eigenvalues.clamp_max(0))

    @cached_property
    def _leaving(self) -> Tensor:
        zero = torch.zeros(1, dtype=torch.float64)
        return torch.cat([self.up, zero]) + torch.cat([zero, self.down])

    def vecmat(self, v: Tensor) -> Tensor:
        up, down, leaving = (on(m, v.device, v.dtype) for m in (self.up, self.down, self._leaving))
        out = -v * leaving
        out[..., 1:] += v[..., :-1] * up
        out[..., :-1] += v[..., 1:] * down
        return out

    def rows(self, x: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
        return self.vecmat(torch.nn.functional.one_hot(x, self.size).double()).to(dtype)

    def columns(self, y: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
        one_hot = torch.nn.functional.one_hot(y, self.size).double()
        up, down, leaving = (on(m, y.device) for m in (self.up, self.down, self._leaving))
        out = -one_hot * leaving
        out[..., :-1] += one_hot[..., 1:] * up
        out[..., 1:] += one_hot[..., :-1] * down
        return out.to(dtype)

    def inverse(self) -> LinearOperator:
        raise ValueError(
            "A rate matrix has rows that sum to 0, so it has no inverse; take the inverse "
            "of its exponential."
        )

    def magnitude(self) -> Spectral:
        return self.spectral.magnitude()

    def exp(self, sigma: Tensor) -> Spectral:
        return self.spectral.exp(sigma)

    def __matmul__(self, other: LinearOperator) -> Spectral:
        if other is not self:
            raise ValueError(
                "Two rate matrices are multiplied through their exponentials, not directly."
            )
        return self.spectral @ self.spectral
