"""S diag(lambda) S^-1 with a fixed basis: functions of one matrix, which all commute."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hf_ddistill.linalg.operator import LinearOperator, spread

#: Entries below this share of the largest eigenvalue cannot be told from 0 in float64.
RESOLUTION = 1e-12


@dataclass(frozen=True)
class Spectral(LinearOperator):
    """S diag(lambda) S^-1; the basis may be complex, what comes out is real.

    Args:
        basis: S, (K, K), float64 or complex128, eigenvectors in columns.
        dual: S^-1, (K, K).
        eigenvalues: lambda, (K,) or (B, K).
    """

    basis: Tensor
    dual: Tensor
    eigenvalues: Tensor

    @property
    def size(self) -> int:
        return self.basis.shape[0]

    def _apply(self, v: Tensor, first: Tensor, second: Tensor) -> Tensor:
        wide = first.dtype if first.is_complex() else torch.float64
        values = self.eigenvalues.to(v.device)
        values = values[:, None, :] if values.ndim == 2 else values
        out = ((v.to(wide) @ first.to(v.device)) * values) @ second.to(v.device)
        return (out.real if out.is_complex() else out).to(v.dtype)

    def vecmat(self, v: Tensor) -> Tensor:
        return self._apply(v, self.basis, self.dual)

    def rows(self, x: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
        return self._entries(x, self.basis, self.dual).to(dtype)

    def columns(self, y: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
        return self._entries(y, self.dual.mT, self.basis.mT).to(dtype)

    def _entries(self, x: Tensor, first: Tensor, second: Tensor) -> Tensor:
        out = self._apply(torch.nn.functional.one_hot(x, self.size).double(), first, second)
        # Sums of cancelling terms: what is this small is rounding, of either sign, and dividing by
        # it (p(x_0 | x_t) / P_0t) would make mass of nothing.
        resolution = RESOLUTION * spread(self.eigenvalues.abs().amax(-1), out)
        return torch.where(out.abs() < resolution, torch.zeros_like(out), out)

    def inverse(self) -> Spectral:
        return replace(self, eigenvalues=1 / self.eigenvalues)

    def magnitude(self) -> Spectral:
        return Spectral(self.basis.abs(), self.dual.abs(), self.eigenvalues.abs())

    def exp(self, sigma: Tensor) -> Spectral:
        sigma = torch.as_tensor(sigma, dtype=torch.float64)
        return replace(
            self, eigenvalues=torch.exp(sigma[..., None] * self.eigenvalues.to(sigma.device))
        )

    def __matmul__(self, other: LinearOperator) -> Spectral:
        if not isinstance(other, Spectral) or other.basis is not self.basis:
            raise ValueError(
                "A product of spectral operators needs one basis; multiply functions of "
                "the same matrix."
            )
        return replace(self, eigenvalues=self.eigenvalues * other.eigenvalues)
