"""Any rate matrix, and one that changes over time without commuting with itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from hf_ddistill.configurable import frozen
from hf_ddistill.linalg import Dense, LinearOperator, Spectral
from hf_ddistill.processes.limit_law import limit_law
from hf_ddistill.processes.process import (
    Process,
    check_mask,
    check_vocabulary,
    point_mass,
    to_limit,
)
from hf_ddistill.shapes import Matrix

MAX_VOCAB = 1024
#: Beyond this the eigenvectors lose more than half the digits of float64 and the matrix
#: exponential is taken directly.
MAX_CONDITION = 1e6


@dataclass(frozen=True)
class General(Process):
    """exp((sigma_t - sigma_s) Q) for any Q; or the time-ordered exponential of Q(sigma) given at
    knots.

    Between knots Q is linear in the total noise sigma, and constant before the first and after the
    last. The kernel is then the product of exp(h Q(midpoint)) over n short steps (Magnus, second
    order), so it is a stochastic matrix whatever n is. On a step of length h where Q = A + (x -
    midpoint) B its error is at most h^3 / 12 |[A, B]| + h^4 / 64 |B|^2 in the infinity norm
    (Duhamel twice, all factors of norm 1), and errors of steps add: n is the least that keeps the
    sum within `tolerance` on the horizon (`error_bound`).

    References: Magnus, On the exponential solution of differential equations, 1954,
    doi:10.1002/cpa.3160070404.

    Args:
        matrix: Q, (K, K), rows sum to 0, off-diagonals >= 0; K at most 1,024.
        knots: instead of `matrix`, pairs (tau, Q) with increasing tau = 1 - exp(-sigma) in [0, 1)
            (tau is t under LogLinear with a small eps).
        mask_token_id: if there is one, a token that the data never hold.
        tolerance: of the kernel with knots, in the infinity norm.
    """

    matrix: Matrix | None = None
    knots: Sequence[Sequence[Any]] | None = None
    mask_token_id: int | None = None  # type: ignore[assignment]
    tolerance: float = 1e-3
    citation: ClassVar[str] = (
        "Campbell et al., A Continuous Time Framework for Discrete Denoising, 2022, "
        "arXiv:2205.14987"
    )

    def __post_init__(self) -> None:
        if (self.matrix is None) == (self.knots is None):
            raise ValueError("General takes either a matrix or knots, one of the two.")
        if self.matrix is not None:
            object.__setattr__(self, "matrix", frozen(self.matrix))
        else:
            object.__setattr__(
                self, "knots", tuple((float(tau), frozen(q)) for tau, q in self.knots)
            )
            taus = [tau for tau, _ in self.knots]
            if len(taus) < 2 or sorted(set(taus)) != taus or not (0 <= taus[0] and taus[-1] < 1):
                raise ValueError(f"knots need two or more increasing times in [0, 1), got {taus}.")
        check_vocabulary(self.vocab_size)
        if self.vocab_size > MAX_VOCAB:
            raise ValueError(
                f"General takes at most {MAX_VOCAB} tokens (a K x K matrix is kept), got "
                f"{self.vocab_size}; "
                "LowRank, Hybrid or Kronecker go further."
            )
        for matrix in self._matrices:
            _check_rate(matrix)
        if len({matrix.shape for matrix in self._matrices}) > 1:
            raise ValueError("The matrices at the knots must have one size.")
        if self.mask_token_id is not None:
            check_mask(self.mask_token_id, self.vocab_size)

    @property
    def vocab_size(self) -> int:
        """K."""
        return len(self.matrix if self.matrix is not None else self.knots[0][1])

    @cached_property
    def _matrices(self) -> tuple[Tensor, ...]:
        given = [self.matrix] if self.matrix is not None else [q for _, q in self.knots]
        return tuple(torch.tensor(q, dtype=torch.float64) for q in given)

    @cached_property
    def reveals(self) -> bool:
        if self.mask_token_id is None:
            return False
        masking = to_limit(point_mass(self.mask_token_id, self.vocab_size)).dense()
        return all(torch.equal(matrix, masking) for matrix in self._matrices)

    @cached_property
    def _sigmas(self) -> Tensor:
        return -torch.log1p(-torch.tensor([tau for tau, _ in self.knots], dtype=torch.float64))

    @cached_property
    def _rate(self) -> LinearOperator:
        eigenvalues, basis = torch.linalg.eig(self._matrices[0])
        # Before the basis is inverted: that of a defective matrix may be singular.
        if not torch.linalg.cond(basis) < MAX_CONDITION:
            return Dense(self._matrices[0])
        return Spectral(basis, torch.linalg.inv(basis), eigenvalues)

    def at(self, sigma: Tensor) -> Tensor:
        """Q(sigma), (..., K, K), interpolated between the knots."""
        knots = self._sigmas.to(sigma.device)
        stack = torch.stack(self._matrices).to(sigma.device)
        right = torch.searchsorted(knots, sigma).clamp(1, len(knots) - 1)
        share = ((sigma - knots[right - 1]) / (knots[right] - knots[right - 1])).clamp(0, 1)[
            ..., None, None
        ]
        return (1 - share) * stack[right - 1] + share * stack[right]

    def rate(self, sigma: Tensor | None = None) -> LinearOperator:
        if self.knots is None:
            return self._rate
        return Dense(
            self.at(
                torch.as_tensor(
                    self._sigmas.mean() if sigma is None else sigma, dtype=torch.float64
                )
            )
        )

    def kernel(self, sigma_s: Tensor, sigma_t: Tensor) -> LinearOperator:
        if self.knots is None:
            return super().kernel(sigma_s, sigma_t)
        start, end = torch.broadcast_tensors(
            torch.as_tensor(sigma_s).double(), torch.as_tensor(sigma_t).double()
        )
        out = torch.eye(self.vocab_size, dtype=torch.float64, device=start.device)
        inner = self._sigmas.to(start.device)
        cuts = [start, *(torch.minimum(torch.maximum(knot, start), end) for knot in inner), end]
        for i, (low, high) in enumerate(zip(cuts[:-1], cuts[1:], strict=True)):
            steps = self.steps if 0 < i < len(inner) else 1
            h = (high - low) / steps
            for step in range(steps):
                out = out @ torch.matrix_exp(h[..., None, None] * self.at(low + (step + 0.5) * h))
        return Dense(out)

    @property
    def commutes(self) -> bool:
        """Whether Q(sigma) Q(tau) = Q(tau) Q(sigma) at all knots, to rounding."""
        return self.commutator <= 1e-9

    @property
    def commutator(self) -> float:
        """The largest |Q_i Q_j - Q_j Q_i| / (|Q_i| |Q_j|) over the knots, in the infinity norm."""
        pairs = [(a, b) for i, a in enumerate(self._matrices) for b in self._matrices[i + 1 :]]
        return max((_norm(a @ b - b @ a) / (_norm(a) * _norm(b)) for a, b in pairs), default=0.0)

    @cached_property
    def _defects(self) -> tuple[float, float]:
        """The sums over knot intervals of length H of H^3 / 12 |[A, B]| (largest on the interval)
        and H^4 / 64 |B|^2."""
        cubic = quartic = 0.0
        for i, width in enumerate(self._sigmas.diff().tolist()):
            low, high = self._matrices[i], self._matrices[i + 1]
            slope = (high - low) / width
            # [A, B] is the same along the interval up to a multiple of [B, B] = 0.
            cubic += width**3 / 12 * _norm(low @ slope - slope @ low)
            quartic += width**4 / 64 * _norm(slope) ** 2
        return cubic, quartic

    @cached_property
    def steps(self) -> int:
        """The number of exponentials between two knots."""
        cubic, quartic = self._defects
        return max(
            1,
            math.ceil(math.sqrt(2 * cubic / self.tolerance)),
            math.ceil((2 * quartic / self.tolerance) ** (1 / 3)),
        )

    @property
    def error_bound(self) -> float:
        """A bound on the infinity-norm error of every kernel; 0 for one fixed matrix."""
        if self.knots is None:
            return 0.0
        cubic, quartic = self._defects
        return cubic / self.steps**2 + quartic / self.steps**3

    @cached_property
    def _limit(self) -> Tensor:
        q = self._matrices[-1]
        law = limit_law(q)
        if torch.linalg.matrix_rank(q, rtol=1e-10) < q.shape[0] - 1:
            raise ValueError(
                "This rate matrix has more than one limit law as far as float64 can tell: some "
                "tokens are left 1e10 times more slowly than others."
            )
        return law

    def limit(self) -> Tensor:
        return self._limit

    @classmethod
    def example(cls, vocab_size: int) -> General:
        generator = torch.Generator().manual_seed(vocab_size)
        q = torch.rand(vocab_size, vocab_size, generator=generator, dtype=torch.float64)
        q = q * vocab_size / 2
        return cls(q - torch.diag(q.sum(-1)))


def _norm(matrix: Tensor) -> float:
    return float(torch.linalg.matrix_norm(matrix, torch.inf))


def _check_rate(matrix: Tensor) -> None:
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"A rate matrix is square, got shape {tuple(matrix.shape)}.")
    off = matrix - torch.diag(matrix.diagonal())
    if (
        not matrix.isfinite().all()
        or (off < 0).any()
        or matrix.sum(-1).abs().max() > 1e-9 * (1 + matrix.abs().max())
    ):
        raise ValueError("A rate matrix has finite off-diagonal rates >= 0 and rows that sum to 0.")
