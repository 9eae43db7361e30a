"""How far a student's distribution q is from the teacher's p at each token, in nats: (..., K),
(..., K) -> (...).

Every divergence here is a sum over the vocabulary of one elementwise term of (log p, log q), so
one rule computes it whole, or on the teacher's top k. Arguments are always (teacher, student).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hf_ddistill.configurable import Configurable
from hf_ddistill.shapes import LOG_ZERO


class Divergence(Configurable, ABC):
    """D(p, q) = finish(sum_k term(log p_k, log q_k)): least where q = p, and never negative.

    Its least value is zero, but for the cross entropy, where it is the teacher's entropy.
    """

    @abstractmethod
    def term(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """The summand, elementwise."""

    @property
    def finite(self) -> bool:
        """Whether it is finite against a teacher that is certain of its token."""
        return True

    def finish(self, total: Tensor) -> Tensor:
        """From the sum of the terms to the divergence."""
        return total

    def __call__(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        return self.finish(self.term(log_p, log_q).sum(-1))

    def certain(self, log_q: Tensor) -> Tensor:
        """Against a teacher that is certain of its token, where that is finite: from log q of the
        token alone, (...) -> (...)."""
        raise NotImplementedError

    def top_k(self, log_p: Tensor, log_q: Tensor, k: int) -> Tensor:
        """Over the k tokens that the teacher holds likeliest, and all the others together as one
        more token.

        Raises:
            ValueError: for k below 1: of all tokens together nothing can be told.
        """
        if k < 1:
            raise ValueError(f"top_k, the number of tokens compared, must be at least 1, got {k}.")
        log_p, index = log_p.topk(min(k, log_p.shape[-1]), -1)
        log_q = log_q.gather(-1, index)
        return self(_with_rest(log_p), _with_rest(log_q))


def _with_rest(log_p: Tensor) -> Tensor:
    rest = (1 - log_p.exp().sum(-1, keepdim=True)).clamp_min(1e-12)
    return torch.cat([log_p, rest.log()], -1)


@dataclass(frozen=True)
class ForwardKL(Divergence):
    """KL(p || q) = sum_k p_k (log p_k - log q_k): mean-seeking; its gradient in q is that of the
    cross entropy."""

    id: ClassVar[str] = "forward_kl"
    citation: ClassVar[str] = (
        "Kullback, Leibler, On Information and Sufficiency, 1951, doi:10.1214/aoms/1177729694"
    )

    def certain(self, log_q: Tensor) -> Tensor:
        return -log_q

    def term(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        return log_p.exp() * (log_p - log_q)


@dataclass(frozen=True)
class ReverseKL(Divergence):
    """KL(q || p) = sum_k q_k (log q_k - log p_k): mode-seeking."""

    id: ClassVar[str] = "reverse_kl"
    citation: ClassVar[str] = "Gu et al., MiniLLM, 2023, arXiv:2306.08543"

    @property
    def finite(self) -> bool:
        return False

    def term(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        return log_q.exp() * (log_q - log_p)


@dataclass(frozen=True)
class CrossEntropy(Divergence):
    """-sum_k p_k log q_k: the forward KL and the teacher's entropy, which no student can change."""

    citation: ClassVar[str] = (
        "Hinton et al., Distilling the Knowledge in a Neural Network, 2015, arXiv:1503.02531"
    )

    def certain(self, log_q: Tensor) -> Tensor:
        return -log_q

    def term(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        return -log_p.exp() * log_q


@dataclass(frozen=True)
class Jeffreys(Divergence):
    """KL(p || q) + KL(q || p): the sum, as Jeffreys and the f-divergences have it (f(r) = (r - 1)
    log r), here and in law matching."""

    citation: ClassVar[str] = (
        "Jeffreys, An invariant form for the prior probability, 1946, doi:10.1098/rspa.1946.0056"
    )

    @property
    def finite(self) -> bool:
        return False

    def term(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        return (log_p.exp() - log_q.exp()) * (log_p - log_q)


@dataclass(frozen=True)
class JensenShannon(Divergence):
    """beta KL(p || m) + (1 - beta) KL(q || m), m = beta p + (1 - beta) q; its ends are the forward
    and the reverse KL.

    Args:
        beta: in [0, 1]; 0 is the forward KL and 1 the reverse one, as in TRL.
    """

    beta: float = 0.5
    citation: ClassVar[str] = (
        "Agarwal et al., On-Policy Distillation of Language Models (GKD), 2023, arXiv:2306.13649"
    )

    def __post_init__(self) -> None:
        if not 0 <= self.beta <= 1:
            raise ValueError(
                f"beta must lie in [0, 1] (0 forward KL, 1 reverse KL), got {self.beta}."
            )

    @property
    def finite(self) -> bool:
        return self.beta < 1

    def certain(self, log_q: Tensor) -> Tensor:
        if self.beta == 0:
            return -log_q
        # Of all the other tokens the mixture is (1 - beta) q.
        rest, own = math.log(1 - self.beta), math.log(self.beta)
        mixture = torch.logaddexp(torch.full_like(log_q, own), log_q + rest)
        other = log_q.exp() * (log_q - mixture) + torch.expm1(log_q) * rest
        return (1 - self.beta) * other - self.beta * mixture

    def term(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        if self.beta == 0:
            return log_p.exp() * (log_p - log_q)
        if self.beta == 1:
            return log_q.exp() * (log_q - log_p)
        mixture = torch.logaddexp(log_p + math.log(self.beta), log_q + math.log(1 - self.beta))
        return self.beta * log_p.exp() * (log_p - mixture) + (1 - self.beta) * log_q.exp() * (
            log_q - mixture
        )


@dataclass(frozen=True)
class TotalVariation(Divergence):
    """sum_k |p_k - q_k| / 2."""

    citation: ClassVar[str] = (
        "Wen et al., f-Divergence Minimization for Sequence-Level Distillation, 2023, "
        "arXiv:2307.15190"
    )

    def certain(self, log_q: Tensor) -> Tensor:
        return -torch.expm1(log_q)

    def term(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        return (log_p.exp() - log_q.exp()).abs() / 2


@dataclass(frozen=True)
class Alpha(Divergence):
    """(1 - sum_k p_k^alpha q_k^(1 - alpha)) / (alpha (1 - alpha)): to the forward KL as alpha ->
    1, the reverse as -> 0.

    Args:
        alpha: in (0, 1); 1/2 is four times the squared Hellinger distance (with its factor 1/2).
    """

    alpha: float = 0.5
    citation: ClassVar[str] = (
        "Amari, Differential-Geometrical Methods in Statistics, 1985, doi:10.1007/978-1-4612-5056-2"
    )

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1:
            raise ValueError(f"alpha must lie strictly between 0 and 1, got {self.alpha}.")

    def certain(self, log_q: Tensor) -> Tensor:
        return self.finish(torch.exp((1 - self.alpha) * log_q))

    def term(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        # A zero on either side contributes nothing; LOG_ZERO times a small alpha would not.
        overlap = torch.exp(self.alpha * log_p + (1 - self.alpha) * log_q)
        return torch.where(
            (log_p <= LOG_ZERO / 2) | (log_q <= LOG_ZERO / 2), torch.zeros_like(overlap), overlap
        )

    def finish(self, total: Tensor) -> Tensor:
        return (1 - total) / (self.alpha * (1 - self.alpha))
