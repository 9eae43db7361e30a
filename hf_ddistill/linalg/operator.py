"""What every operator can do.

An operator is a (batch of) K x K matrix M that acts on row vectors: `vecmat(v)` is v M. A batched
operator has one matrix for each row of the batch; its coefficients have shape (B,) and broadcast
over the positions of (B, L, K).
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from hf_ddistill.linalg.draw import categorical, uniform_noise
from hf_ddistill.shapes import Chooser, Generators


class LinearOperator(ABC):
    """A (batch of) structured K x K matrix; its coefficients are float64 and are cast once, to the
    dtype that they meet."""

    @property
    @abstractmethod
    def size(self) -> int:
        """K."""

    @abstractmethod
    def vecmat(self, v: Tensor) -> Tensor:
        """v M for v of shape (B, L, K), or (..., K) where the operator is not batched."""

    @abstractmethod
    def rows(self, x: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
        """M[x, :] for tokens x of shape (B, L): (B, L, K)."""

    @abstractmethod
    def columns(self, y: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
        """M[:, y] for tokens y of shape (B, L): (B, L, K)."""

    def entries(self, x: Tensor, y: Tensor) -> Tensor:
        """M[x, y] for tokens x and y of shape (B, L): (B, L), float64. Overridden where no (B, L,
        K) is needed."""
        return self.rows(x).gather(-1, y[..., None])[..., 0]

    @abstractmethod
    def inverse(self) -> LinearOperator:
        """The inverse matrix, of the same structure."""

    @abstractmethod
    def magnitude(self) -> LinearOperator:
        """An operator with entries of at least |M|: the absolute values of all that is multiplied
        and summed where M is applied.

        Rounding changes v M by no more than a few eps |v| `magnitude()`, entry by entry: this is
        the size of the terms before they cancel.
        """

    @abstractmethod
    def exp(self, sigma: Tensor) -> LinearOperator:
        """exp(sigma M) for sigma of shape () or (B,); only for an operator that is not batched."""

    @abstractmethod
    def __matmul__(self, other: LinearOperator) -> LinearOperator:
        """The product of two operators of one structure (and one basis)."""

    def draw(self, x: Tensor, generator: Generators = None) -> Tensor:
        """A token from each row M[x, :]; rows must be distributions. Overridden where no (B, L, K)
        is needed."""
        return categorical(self.rows(x), generator)

    def bridge(
        self, after: LinearOperator, x: Tensor, z: Tensor, generator: Generators = None
    ) -> Tensor:
        """A token between two: y with probability in proportion to M[x, y] N[y, z], for tokens x
        and z of shape (B, L), this kernel M and the one after it, N.

        One row times one column, a few positions at a time; overridden where these are not needed.
        """

        def law(part: slice) -> Tensor:
            return (self.rows(x[:, part]) * after.columns(z[:, part])).clamp_min(0)

        if isinstance(generator, Chooser):
            return categorical(law(slice(None)), generator)
        noise = uniform_noise(x.shape, generator, x.device)
        parts = columns_of_batch(x, self.size)
        return torch.cat([categorical(law(part), noise=noise[:, part]) for part in parts], 1)

    def dense(self) -> Tensor:
        """The matrix itself, (..., K, K): for tests and small spaces."""
        return self.vecmat(torch.eye(self.size, dtype=torch.float64))


def columns_of_batch(x: Tensor, size: int, least: int = 0) -> list[slice]:
    """The positions of (B, L) tokens that laws of `size` tokens are made of at a time: as many as
    have 2^18 entries together, or `least` if that is more, and one at least."""
    many = max(1, max(2**18, least) // (size * max(1, len(x))))
    return [slice(start, start + many) for start in range(0, max(1, x.shape[1]), many)]


def spread(coefficient: Tensor, like: Tensor) -> Tensor:
    """A float64 coefficient of shape () or (B,) cast once and shaped to broadcast over (B, L,
    K)."""
    coefficient = beside(coefficient, like).to(like.dtype)
    return coefficient[:, None, None] if coefficient.ndim else coefficient


def beside(coefficient: Tensor, like: Tensor) -> Tensor:
    """A coefficient where it can meet `like`: a single number of the CPU does wherever it is, and
    is sent with the operation that takes it; others go to the device."""
    if not coefficient.ndim and coefficient.device.type == "cpu":
        return coefficient
    return coefficient.to(like.device, non_blocking=coefficient.device.type == "cpu")
