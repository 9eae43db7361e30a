"""S diag(lambda) S^-1 with a fixed basis: functions of one matrix, which all commute."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hf_ddistill.linalg.constants import on
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

    def vecmat(self, v: Tensor) -> Tensor:
        first, second = on(self.basis, v.device), on(self.dual, v.device)
        wide = first.dtype if first.is_complex() else torch.float64
        return self._out(v.to(wide) @ first, second).to(v.dtype)

    def rows(self, x: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
        return self._entries(on(self.basis, x.device)[x], on(self.dual, x.device)).to(dtype)

    def columns(self, y: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
        return self._entries(on(self.dual, y.device).mT[y], on(self.basis, y.device).mT).to(dtype)

    def _out(self, modes: Tensor, second: Tensor) -> Tensor:
        """modes (B, L, K) diag(lambda) times the second basis."""
        values = self.eigenvalues.to(
            modes.device, non_blocking=self.eigenvalues.device.type == "cpu"
        )
        out = (modes * (values[:, None, :] if values.ndim == 2 else values)) @ second
        return out.real if out.is_complex() else out

    def _entries(self, modes: Tensor, second: Tensor) -> Tensor:
        out = self._out(modes, second)
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
