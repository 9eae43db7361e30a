"""Jumps through r clusters: a token moves to a token that is like it, for instance a neighbour in
an embedding."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from hf_ddistill.configurable import frozen
from hf_ddistill.linalg import ScalarPlusLowRank
from hf_ddistill.processes.limit_law import limit_law, reaches
from hf_ddistill.processes.process import Process, check_vocabulary
from hf_ddistill.shapes import Matrix


@dataclass(frozen=True)
class LowRank(Process):
    """Q = A E - I: at rate 1 a token draws a cluster from A[token] and then a token from
    E[cluster].

    Args:
        vocab_size: K.
        assign: A, (K, r), rows are distributions.
        emit: E, (r, K), rows are distributions. E A must connect all clusters, or there is no one
            limit law.
    """

    vocab_size: int
    assign: Matrix
    emit: Matrix
    citation: ClassVar[str] = (
        "Austin et al., Structured Denoising Diffusion Models (A.2.4), 2021, arXiv:2107.03006"
    )

    def __post_init__(self) -> None:
        check_vocabulary(self.vocab_size)
        object.__setattr__(self, "assign", frozen(self.assign))
        object.__setattr__(self, "emit", frozen(self.emit))
        for name, matrix, shape in (
            ("assign", self._assign, (self.vocab_size, len(self.emit))),
            ("emit", self._emit, (len(self.emit), self.vocab_size)),
        ):
            if matrix.shape != shape:
                raise ValueError(f"{name} must have shape {shape}, got {tuple(matrix.shape)}.")
            if (matrix < 0).any() or not torch.allclose(
                matrix.sum(-1), torch.ones(shape[0]).double(), atol=1e-6
            ):
                raise ValueError(
                    f"The rows of {name} must be distributions: non-negative, with sum 1."
                )
        if not reaches(self._emit @ self._assign).all():
            raise ValueError(
                "Some cluster cannot be reached from another, so there is no one limit law."
            )

    @classmethod
    def from_embedding(
        cls, embedding: Tensor, centres: Tensor, temperature: float = 1.0, uniform: float = 0.05
    ) -> LowRank:
        """Soft clusters in an embedding: A = softmax(-|e - c|^2 / temperature), E the same by
        token, some of it uniform.

        Args:
            embedding: (K, D), one row for each token.
            centres: (r, D), for instance of k-means.
            temperature: of the squared distances.
            uniform: share of E that is uniform, which connects all clusters.
        """
        near = -(torch.cdist(embedding.double(), centres.double()) ** 2) / temperature
        emit = (1 - uniform) * near.mT.softmax(-1) + uniform / embedding.shape[0]
        return cls(embedding.shape[0], near.softmax(-1), emit)

    @cached_property
    def _assign(self) -> Tensor:
        return torch.tensor(self.assign, dtype=torch.float64)

    @cached_property
    def _emit(self) -> Tensor:
        return torch.tensor(self.emit, dtype=torch.float64)

    @cached_property
    def _rate(self) -> ScalarPlusLowRank:
        core = torch.eye(len(self.emit), dtype=torch.float64)
        # Rows that sum to 1 up to rounding of the JSON are made exact, so that rows of Q sum to 0.
        assign, emit = (m / m.sum(-1, keepdim=True) for m in (self._assign, self._emit))
        minus, afresh = torch.tensor(-1.0, dtype=torch.float64), bool((assign == 1).all())
        return ScalarPlusLowRank(minus, assign, core, emit.mT.contiguous(), afresh)

    def rate(self, sigma: Tensor | None = None) -> ScalarPlusLowRank:
        return self._rate

    @cached_property
    def _limit(self) -> Tensor:
        # E A is the chain of the clusters; its law is that of the cluster that is drawn last.
        return limit_law(self._rate.overlap) @ self._rate.right.mT

    def limit(self) -> Tensor:
        return self._limit

    @classmethod
    def example(cls, vocab_size: int) -> LowRank:
        points = torch.arange(vocab_size, dtype=torch.float64)[:, None]
        return cls.from_embedding(
            points, points[:: max(1, vocab_size // 3)] + 0.25, temperature=2.0
        )
