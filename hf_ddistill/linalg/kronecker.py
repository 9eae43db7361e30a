"""Operators on a product vocabulary: token = index into factors of sizes K_1, ..., K_n, the last
one fastest.

A rate that moves one factor at a time is the Kronecker sum Q_1 (+) ... (+) Q_n; its exponential is
the Kronecker product of the exponentials, applied factor by factor, never formed.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from hf_ddistill.linalg.operator import LinearOperator
from hf_ddistill.shapes import Generators


def _split(x: Tensor, sizes: tuple[int, ...]) -> list[Tensor]:
    parts = []
    for size in reversed(sizes):
        parts.append(x % size)
        x = x // size
    return parts[::-1]


def _outer(parts: list[Tensor]) -> Tensor:
    out = parts[0]
    for part in parts[1:]:
        out = (out[..., :, None] * part[..., None, :]).flatten(-2)
    return out


def _along(factor: LinearOperator, v: Tensor, sizes: tuple[int, ...], axis: int) -> Tensor:
    """Apply one factor's `vecmat` along its own axis of the product vocabulary."""
    before, after = prod(sizes[:axis]), prod(sizes[axis + 1 :])
    rows = v.shape[0] if v.ndim > 2 else 1
    folded = v.reshape(*v.shape[:-1], before, sizes[axis], after).movedim(-2, -1)
    # Not -1 for the number of places: a batch of no rows has no answer to it.
    places = prod(v.shape[:-1]) * before * after // max(rows, 1)
    out = factor.vecmat(folded.reshape(rows, places, sizes[axis])).reshape(folded.shape)
    return out.movedim(-1, -2).reshape(v.shape)


@dataclass(frozen=True)
class _Factors:
    """What product and sum share: the factors, and tokens split into theirs."""

    factors: tuple[LinearOperator, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes of the factors."""
        return tuple(factor.size for factor in self.factors)

    @property
    def size(self) -> int:
        return prod(self.sizes)

    def _parts(self, side: str, x: Tensor, dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
        """The token of each factor, and the factor's row or column (`side`) there."""
        tokens = _split(x, self.sizes)
        return tokens, [
            getattr(factor, side)(token, dtype)
            for factor, token in zip(self.factors, tokens, strict=True)
        ]


@dataclass(frozen=True)
class KroneckerProduct(_Factors, LinearOperator):
    """M_1 (x) ... (x) M_n, factors batched alike."""

    def vecmat(self, v: Tensor) -> Tensor:
        for axis, factor in enumerate(self.factors):
            v = _along(factor, v, self.sizes, axis)
        return v

    def rows(self, x: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
        return _outer(self._parts("rows", x, dtype)[1])

    def columns(self, y: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
        return _outer(self._parts("columns", y, dtype)[1])

    def bridge(
        self, after: LinearOperator, x: Tensor, z: Tensor, generator: Generators = None
    ) -> Tensor:
        """Factor by factor: given both ends they are independent."""
        if not isinstance(after, KroneckerProduct) or after.sizes != self.sizes:
            return super().bridge(after, x, z, generator)
        out = torch.zeros_like(x)
        ends = zip(_split(x, self.sizes), _split(z, self.sizes), strict=True)
        for one, other, (start, end) in zip(self.factors, after.factors, ends, strict=True):
            out = out * one.size + one.bridge(other, start, end, generator)
        return out

    def inverse(self) -> KroneckerProduct:
        return KroneckerProduct(tuple(factor.inverse() for factor in self.factors))

    def magnitude(self) -> KroneckerProduct:
        return KroneckerProduct(tuple(factor.magnitude() for factor in self.factors))

    def exp(self, sigma: Tensor) -> LinearOperator:
        raise ValueError(
            "A Kronecker product is a kernel, not a rate; take the exponential of the "
            "Kronecker sum."
        )

    def __matmul__(self, other: LinearOperator) -> KroneckerProduct:
        if not isinstance(other, KroneckerProduct) or other.sizes != self.sizes:
            raise ValueError(
                "A product of Kronecker operators needs the same factors on both sides."
            )
        return KroneckerProduct(
            tuple(a @ b for a, b in zip(self.factors, other.factors, strict=True))
        )

    def dense(self) -> Tensor:
        out = self.factors[0].dense()
        for factor in self.factors[1:]:
            out = (
                torch.einsum("...ab,...cd->...acbd", out, factor.dense())
                .flatten(-4, -3)
                .flatten(-2, -1)
            )
        return out


@dataclass(frozen=True)
class KroneckerSum(_Factors, LinearOperator):
    """Q_1 (+) ... (+) Q_n: the rate of a token whose factors move independently, one at a time."""

    def vecmat(self, v: Tensor) -> Tensor:
        return torch.stack(
            [_along(factor, v, self.sizes, axis) for axis, factor in enumerate(self.factors)]
        ).sum(0)

    def rows(self, x: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
        return self._moves("rows", x, dtype)

    def columns(self, y: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
        return self._moves("columns", y, dtype)

    def _moves(self, side: str, x: Tensor, dtype: torch.dtype) -> Tensor:
        tokens, moves = self._parts(side, x, dtype)
        here = [
            torch.nn.functional.one_hot(token, size).to(dtype)
            for token, size in zip(tokens, self.sizes, strict=True)
        ]
        terms = [_outer([*here[:i], moves[i], *here[i + 1 :]]) for i in range(len(moves))]
        return torch.stack(terms).sum(0)

    def inverse(self) -> LinearOperator:
        raise ValueError(
            "A rate matrix has rows that sum to 0, so it has no inverse; take the inverse "
            "of its exponential."
        )

    def magnitude(self) -> KroneckerSum:
        return KroneckerSum(tuple(factor.magnitude() for factor in self.factors))

    def exp(self, sigma: Tensor) -> KroneckerProduct:
        return KroneckerProduct(tuple(factor.exp(sigma) for factor in self.factors))

    def __matmul__(self, other: LinearOperator) -> LinearOperator:
        raise ValueError(
            "Two rate matrices are multiplied through their exponentials, not directly."
        )
