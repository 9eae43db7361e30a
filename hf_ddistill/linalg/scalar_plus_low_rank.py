"""c I + U C V^T: closed under product, inverse and exponential, in O(K r) time and memory.

With M = V^T U (r x r):
    (c I + U C V^T)(d I + U D V^T) = c d I + U (c D + d C + C M D) V^T
    (c I + U C V^T)^-1             = I / c - U (c I + C M)^-1 C V^T / c              (Woodbury)
    exp(s (c I + U C V^T))         = e^{s c} (I + U phi(s C M) s C V^T),  phi(z) = (e^z - 1) / z
Uniform, absorbing and every other process with a limit law has r = 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hf_ddistill.linalg.draw import categorical, uniform_noise
from hf_ddistill.linalg.operator import LinearOperator, spread
from hf_ddistill.shapes import Generators


@dataclass(frozen=True)
class ScalarPlusLowRank(LinearOperator):
    """c I + U C V^T.

    Args:
        scalar: c, float64, () or (B,).
        left: U, float64, (K, r).
        core: C, float64, (r, r) or (B, r, r).
        right: V, float64, (K, r).
    """

    scalar: Tensor
    left: Tensor
    core: Tensor
    right: Tensor

    @property
    def size(self) -> int:
        return self.left.shape[0]

    @property
    def overlap(self) -> Tensor:
        """M = V^T U, on the device of the coefficients."""
        return (self.right.mT @ self.left).to(self.scalar.device)

    def vecmat(self, v: Tensor) -> Tensor:
        left, core, right = (
            m.to(device=v.device, dtype=v.dtype) for m in (self.left, self.core, self.right)
        )
        return spread(self.scalar, v) * v + (v @ left @ core) @ right.mT

    def rows(self, x: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
        return self._one_hot_plus(
            x, self.left.to(x.device)[x] @ self.core.to(x.device), self.right, dtype
        )

    def columns(self, y: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
        return self._one_hot_plus(
            y, self.right.to(y.device)[y] @ self.core.to(y.device).mT, self.left, dtype
        )

    def entries(self, x: Tensor, y: Tensor) -> Tensor:
        left, core, right = (m.to(x.device) for m in (self.left, self.core, self.right))
        scalar = self.scalar.to(x.device)
        kept = torch.where(x == y, scalar[:, None] if scalar.ndim else scalar, 0.0)
        return kept + (left[x] @ core * right[y]).sum(-1)

    def _one_hot_plus(
        self, x: Tensor, weights: Tensor, basis: Tensor, dtype: torch.dtype
    ) -> Tensor:
        out = weights.to(dtype) @ basis.to(device=x.device, dtype=dtype).mT
        scalar = self.scalar.to(device=x.device, dtype=dtype)
        scalar = (scalar[:, None] if scalar.ndim else scalar).expand(x.shape)
        return out.scatter_add_(-1, x[..., None], scalar[..., None])

    def inverse(self) -> ScalarPlusLowRank:
        scalar = self.scalar[..., None, None]
        inner = (
            scalar * torch.eye(self.core.shape[-1], dtype=scalar.dtype, device=scalar.device)
            + self.core @ self.overlap
        )
        return ScalarPlusLowRank(
            1 / self.scalar,
            self.left,
            -torch.linalg.solve(inner, self.core.expand_as(inner)) / scalar,
            self.right,
        )

    def magnitude(self) -> ScalarPlusLowRank:
        parts = (self.scalar, self.left, self.core, self.right)
        return ScalarPlusLowRank(*(part.abs() for part in parts))

    def exp(self, sigma: Tensor) -> ScalarPlusLowRank:
        sigma = torch.as_tensor(sigma, dtype=torch.float64)
        core = sigma[..., None, None] * self.core.to(sigma.device)
        growth = torch.exp(sigma * self.scalar.to(sigma.device))
        core = growth[..., None, None] * (_phi(core @ self.overlap.to(sigma.device)) @ core)
        return ScalarPlusLowRank(growth, self.left, core, self.right)

    def __matmul__(self, other: LinearOperator) -> ScalarPlusLowRank:
        if (
            not isinstance(other, ScalarPlusLowRank)
            or other.left is not self.left
            or other.right is not self.right
        ):
            raise ValueError(
                "A product of low-rank operators needs one basis; multiply operators of "
                "the same process."
            )
        c, d = self.scalar[..., None, None], other.scalar[..., None, None]
        core = c * other.core + d * self.core + self.core @ self.overlap @ other.core
        return ScalarPlusLowRank(self.scalar * other.scalar, self.left, core, self.right)

    def draw(self, x: Tensor, generator: Generators = None) -> Tensor:
        """A kernel is a mixture: stay with probability c, or draw from one of the r laws in V. No
        (B, L, K) is made."""
        noise = uniform_noise((*x.shape, 2), generator, x.device)
        laws = self.right.to(x.device)
        mass = laws.sum(0)
        leave = self.left.to(x.device)[x] @ self.core.to(x.device) * mass
        scalar = self.scalar.to(x.device)
        stay = (scalar[:, None] if scalar.ndim else scalar).expand(x.shape)
        component = categorical(
            torch.cat([stay[..., None], leave], -1).clamp_min(0), noise=noise[..., 0]
        )
        out, within = x, noise[..., 1].contiguous()
        for j in range(mass.shape[0]):
            cumulative = laws[:, j].cumsum(0)
            # By its own last entry, not by `mass`: rounding must not reach a last token of
            # probability 0.
            fresh = torch.searchsorted(cumulative, within * cumulative[-1], right=True).clamp_max(
                self.size - 1
            )
            out = torch.where(component == j + 1, fresh, out)
        return out


def _phi(z: Tensor) -> Tensor:
    """(e^z - 1) / z of a small matrix, exact at z = 0: a block of exp([[z, I], [0, 0]])."""
    r = z.shape[-1]
    eye = torch.eye(r, dtype=z.dtype, device=z.device).expand_as(z)
    zero = torch.zeros_like(z)
    block = torch.cat([torch.cat([z, eye], -1), torch.cat([zero, zero], -1)], -2)
    return torch.matrix_exp(block)[..., :r, r:]
