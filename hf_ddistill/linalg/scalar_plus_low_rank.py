"""c I + U C V^T: closed under product, inverse and exponential, in O(K r) time and memory.

With M = V^T U (r x r):
    (c I + U C V^T)(d I + U D V^T) = c d I + U (c D + d C + C M D) V^T
    (c I + U C V^T)^-1             = I / c - U (c I + C M)^-1 C V^T / c              (Woodbury)
    exp(s (c I + U C V^T))         = e^{s c} (I + U phi(s C M) s C V^T),  phi(z) = (e^z - 1) / z
Uniform, absorbing and every other process with a limit law has r = 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from hf_ddistill.linalg.constants import made_of, on
from hf_ddistill.linalg.draw import categorical, uniform_noise
from hf_ddistill.linalg.operator import LinearOperator, beside, spread
from hf_ddistill.shapes import Chooser, Generators


@dataclass(frozen=True)
class ScalarPlusLowRank(LinearOperator):
    """c I + U C V^T.

    Args:
        scalar: c, float64, () or (B,).
        left: U, float64, (K, r).
        core: C, float64, (r, r) or (B, r, r).
        right: V, float64, (K, r).
        afresh: whether U is all ones: what moves is drawn from one set of laws, whatever it was.
    """

    scalar: Tensor
    left: Tensor
    core: Tensor
    right: Tensor
    afresh: bool = False

    @property
    def size(self) -> int:
        return self.left.shape[0]

    @property
    def rank(self) -> int:
        """r."""
        return self.left.shape[1]

    @property
    def overlap(self) -> Tensor:
        """M = V^T U, on the device of the coefficients."""
        return on(self._overlap, self.scalar.device)

    @cached_property
    def _overlap(self) -> Tensor:
        return self.right.mT @ self.left

    def vecmat(self, v: Tensor) -> Tensor:
        left, right = (on(m, v.device, v.dtype) for m in (self.left, self.right))
        within = self._through(v @ left, self.core)
        out = spread(self.scalar, v) * v
        if self.rank == 1:  # in place: no second tensor of the size of v
            return out.addcmul_(within, right[:, 0])
        return out.add_(within @ right.mT)

    def rows(self, x: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
        return self._one_hot_plus(
            x, self._through(on(self.left, x.device)[x], self.core), self.right, dtype
        )

    def columns(self, y: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
        return self._one_hot_plus(
            y, self._through(on(self.right, y.device)[y], self.core.mT), self.left, dtype
        )

    def entries(self, x: Tensor, y: Tensor) -> Tensor:
        within = self._through(on(self.left, x.device)[x], self.core) * on(self.right, x.device)[y]
        return within.sum(-1) + self._at(x, self.scalar).masked_fill(x != y, 0.0)

    def _through(self, weights: Tensor, core: Tensor) -> Tensor:
        """weights (..., r) C; by numbers of the CPU, which are not sent, where they are few."""
        if self.rank == 1:
            return weights * spread(core[..., 0, 0], weights)
        if self.rank == 2 and core.ndim == 2 and core.device != weights.device:
            parts = [weights[..., :1] * core[0, k] + weights[..., 1:] * core[1, k] for k in (0, 1)]
            return torch.cat(parts, -1)
        return weights @ core.to(weights, non_blocking=core.device.type == "cpu")

    def _one_hot_plus(
        self, x: Tensor, weights: Tensor, basis: Tensor, dtype: torch.dtype
    ) -> Tensor:
        out = weights.to(dtype) @ on(basis, x.device, dtype).mT
        return out.scatter_add_(-1, x[..., None], self._at(x, self.scalar)[..., None].to(dtype))

    @staticmethod
    def _at(x: Tensor, coefficient: Tensor) -> Tensor:
        """A coefficient () or (B,) at each token of x (B, L), float64."""
        coefficient = beside(coefficient, x)
        zero = torch.zeros(x.shape, dtype=torch.float64, device=x.device)
        return zero + (coefficient[:, None] if coefficient.ndim else coefficient)

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
            self.afresh,
        )

    def magnitude(self) -> ScalarPlusLowRank:
        parts = (self.scalar, self.left, self.core, self.right)
        return ScalarPlusLowRank(*(part.abs() for part in parts), self.afresh)

    def exp(self, sigma: Tensor) -> ScalarPlusLowRank:
        sigma = torch.as_tensor(sigma, dtype=torch.float64)
        core = sigma[..., None, None] * on(self.core, sigma.device)
        growth = torch.exp(sigma * on(self.scalar, sigma.device))
        swell = _phi(core @ on(self._overlap, sigma.device)) @ core
        core = growth[..., None, None] * swell
        return ScalarPlusLowRank(growth, self.left, core, self.right, self.afresh)

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
        scalar = self.scalar * other.scalar
        return ScalarPlusLowRank(scalar, self.left, core, self.right, self.afresh)

    def draw(self, x: Tensor, generator: Generators = None) -> Tensor:
        """A kernel is a mixture: stay with probability c, or draw from one of the r laws in V. No
        (B, L, K) is made."""
        if isinstance(generator, Chooser):
            return super().draw(x, generator)
        noise = uniform_noise((*x.shape, 2), generator, x.device)
        leave = self.fresh(x) * self.mass(x.device)
        component = categorical(
            torch.cat([self._at(x, self.scalar)[..., None], leave], -1).clamp_min(0),
            noise=noise[..., 0],
        )
        out, within = x, noise[..., 1].contiguous()
        for j in range(self.rank):
            fresh = draw_from(self.right, j, within)
            out = torch.where(component == j + 1, fresh, out)
        return out

    def bridge(
        self, after: LinearOperator, x: Tensor, z: Tensor, generator: Generators = None
    ) -> Tensor:
        if isinstance(generator, Chooser) or not self._draws_afresh(after):
            return super().bridge(after, x, z, generator)
        piece = categorical(self.bridge_weights(after, x, z), generator)
        noise = uniform_noise(x.shape, generator, x.device)
        out = torch.where(piece == 0, x, z)
        for j in range(self.rank):
            out = torch.where(piece == j + 2, draw_from(self.right, j, noise), out)
        return out

    def bridge_weights(self, after: ScalarPlusLowRank, x: Tensor, z: Tensor) -> Tensor:
        """The bridge as a mixture where U is all ones: (B, L, 2 + r) weights of y = x, of y = z and
        of the r laws in V.

        With M = c I + 1 u^T, N = d I + 1 v^T:  M[x, y] N[y, z] =
        c 1[y = x] N[x, z] + u_z d 1[y = z] + v_z u_y.
        """
        fresh = self.fresh(x)
        back = (after.fresh(z) * self.laws_at(z)).sum(-1, keepdim=True)
        stay = self._at(x, self.scalar) * after.entries(x, z)
        arrive = self._at(x, after.scalar) * (fresh * self.laws_at(z)).sum(-1)
        anew = fresh * self.mass(x.device) * back
        return torch.cat([stay[..., None], arrive[..., None], anew], -1).clamp_min(0)

    def fresh(self, x: Tensor) -> Tensor:
        """U[x] C: how much of each law in V a token x becomes, (B, L, r)."""
        return self._through(on(self.left, x.device)[x], self.core)

    def laws_at(self, y: Tensor) -> Tensor:
        """V[y], (B, L, r)."""
        return on(self.right, y.device)[y]

    def mass(self, device: torch.device) -> Tensor:
        """The sums (r,) of the laws in V."""
        return on(made_of(self.right, "mass", lambda laws: laws.sum(0)), device)

    def _draws_afresh(self, after: LinearOperator) -> bool:
        """Whether both kernels draw from one set of laws, whatever the token was."""
        return (
            isinstance(after, ScalarPlusLowRank)
            and after.left is self.left
            and after.right is self.right
            and self.afresh
        )


def draw_from(laws: Tensor, j: int, noise: Tensor, but: Tensor | None = None) -> Tensor:
    """Tokens of the one law laws[:, j], which need not be normalised, at uniform numbers.

    Args:
        laws: (K, r).
        j: which of the r.
        noise: (...), uniform numbers.
        but: (...), tokens that are left out, each of its own draw; None for none.
    """
    cumulative = made_of(laws, "cumulative", lambda laws: laws.mT.contiguous().cumsum(-1))
    cumulative = on(cumulative, noise.device)[j]
    # By its own last entry: rounding must not reach a last token of probability 0.
    target = noise * cumulative[-1]
    if but is not None:
        before = torch.where(but > 0, cumulative[(but - 1).clamp_min(0)], 0.0)
        gap = cumulative[but] - before
        target = noise * (cumulative[-1] - gap)
        target = torch.where(target >= before, target + gap, target)
    found = torch.searchsorted(cumulative, target, right=True)
    return found.clamp_max(laws.shape[0] - 1)


def _phi(z: Tensor) -> Tensor:
    """(e^z - 1) / z of a small matrix, exact at z = 0: a block of exp([[z, I], [0, 0]])."""
    r = z.shape[-1]
    if r == 1:
        other = torch.where(z == 0, torch.ones_like(z), z)
        return torch.where(z == 0, torch.ones_like(z), torch.expm1(other) / other)
    eye = torch.eye(r, dtype=z.dtype, device=z.device).expand_as(z)
    zero = torch.zeros_like(z)
    block = torch.cat([torch.cat([z, eye], -1), torch.cat([zero, zero], -1)], -2)
    return torch.matrix_exp(block)[..., :r, r:]
