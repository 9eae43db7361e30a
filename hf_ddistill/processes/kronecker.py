"""A product vocabulary: a token is a tuple of factors, each with a process of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, ClassVar

import torch
from torch import Tensor

from hf_ddistill.linalg import KroneckerProduct, KroneckerSum
from hf_ddistill.processes.process import Process
from hf_ddistill.processes.uniform import Uniform


@dataclass(frozen=True)
class Kronecker(Process):
    """Q = Q_1 (+) ... (+) Q_n over tokens x = (x_1, ..., x_n), the last factor fastest; K = K_1
    ... K_n.

    Args:
        factors: processes (or their configurations), at least two.
    """

    factors: Sequence[Process | Mapping[str, Any]]
    citation: ClassVar[str] = (
        "Van Loan, The ubiquitous Kronecker product, 2000, doi:10.1016/S0377-0427(00)00393-9"
    )

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "factors", tuple(Process.from_config(factor) for factor in self.factors)
        )
        if len(self.factors) < 2:
            raise ValueError(f"Kronecker takes two processes or more, got {len(self.factors)}.")

    @property
    def vocab_size(self) -> int:
        """K, the product of the factors' sizes."""
        return prod(factor.vocab_size for factor in self.factors)

    @cached_property
    def noise_tokens(self) -> tuple[int, ...]:  # type: ignore[override]
        tokens = torch.arange(self.vocab_size)
        noisy = torch.zeros_like(tokens, dtype=torch.bool)
        for factor in reversed(self.factors):
            for noise in factor.noise_tokens:
                noisy |= tokens % factor.vocab_size == noise
            tokens = tokens // factor.vocab_size
        return tuple(torch.nonzero(noisy)[:, 0].tolist())

    def rate(self, sigma: Tensor | None = None) -> KroneckerSum:
        return KroneckerSum(tuple(factor.rate(sigma) for factor in self.factors))

    def kernel(self, sigma_s: Tensor, sigma_t: Tensor) -> KroneckerProduct:
        return KroneckerProduct(tuple(factor.kernel(sigma_s, sigma_t) for factor in self.factors))

    @cached_property
    def _limit(self) -> Tensor:
        law = torch.ones(1, dtype=torch.float64)
        for factor in self.factors:
            law = torch.outer(law, factor.limit()).flatten()
        return law

    def limit(self) -> Tensor:
        return self._limit

    @classmethod
    def example(cls, vocab_size: int) -> Kronecker:
        half = next((d for d in range(2, vocab_size) if vocab_size % d == 0), None)
        if half is None:
            raise ValueError(
                f"A product vocabulary of {vocab_size} tokens needs a number that is not prime."
            )
        return cls((Uniform(half), Uniform(vocab_size // half)))
