"""A data law over explicit sequences, and what Bayes' rule makes of it under a diffusion.

C clean tokens (those that data may hold), M = C^L clean sequences, K^L states.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from hf_ddistill.denoisers import Denoiser, NetworkDenoiser
from hf_ddistill.diffusion import Diffusion, times
from hf_ddistill.laboratory.distances import entropy
from hf_ddistill.laboratory.space import (
    all_sequences,
    check_space,
    clean_sequences,
    clean_tokens,
    halves,
    marginals,
    rows_per_chunk,
    sequence_numbers,
)
from hf_ddistill.parameterizations import Conditional
from hf_ddistill.shapes import LOG_ZERO, LogProbs, Tokens

#: Within (0, 1): where masks tell the time, conditionals are the same at all of them.
ANY_TIME = 0.5


@dataclass(frozen=True, eq=False)
class ExactProblem:
    """A strictly positive law over all clean sequences, with every conditional known exactly.

    p(x_0^i = v | x_t) = sum over x_0 with x_0^i = v of p(x_0) prod_j P_0t[x_0^j, x_t^j], normalised

    A sampler that draws positions independently reaches sequences that a law with zeros excludes,
    and from there the conditionals of that law are 0 / 0: hence no zeros; `smoothed` takes them.

    Args:
        law: p(x_0), (M,); kept as float64.
        sequences: int64 (M, L), every clean sequence once, in any order.
        diffusion: process and schedule.

    Raises:
        ValueError: on shapes that do not fit together, a space of more than `MAX_STATES` states, a
            token that data cannot hold, a repeated sequence, a law that is not normalised or is
            negative, zeros, or sequences that are missing.
    """

    law: Tensor
    sequences: Tensor
    diffusion: Diffusion

    def __post_init__(self) -> None:
        object.__setattr__(self, "law", self.law.double())
        numbers = _check_law(self.law, self.sequences, self.diffusion)
        missing = len(clean_tokens(self.diffusion)) ** self.length - len(numbers)
        if zeros := missing + int((self.law == 0).sum()):
            raise ValueError(
                f"The law has zeros: {zeros:,} of {len(numbers) + missing:,} clean sequences have "
                "no probability, and p(x_0 | x_t) is 0 / 0 where a sampler gets to one of them; "
                "`ExactProblem.smoothed` adds a little to each."
            )
        if not abs(float(self.law.sum()) - 1) < 1e-9:
            raise ValueError(
                f"The law sums to {float(self.law.sum()):.10g}, not to 1; divide it by its sum, "
                "in float64."
            )

    @classmethod
    def smoothed(
        cls, law: Tensor, sequences: Tensor, diffusion: Diffusion, amount: float = 1e-5
    ) -> ExactProblem:
        """The problem of law / sum(law) + amount over every clean sequence, normalised again.

        Args:
            law: non-negative weights (M,), such as counts.
            sequences: int64 (M, L), each once; those that are missing have weight 0. The problem
                has all of them, in product order.
            diffusion: process and schedule.
            amount: what each sequence gets, above 0.
        """
        if not 0 < amount < float("inf"):
            raise ValueError(f"amount, what each sequence gets, must be above 0, got {amount}.")
        law = law.double()
        numbers = _check_law(law, sequences, diffusion)
        if not float(law.sum()) > 0:
            raise ValueError("The weights are all zero: there is no law to be smoothed.")
        every = clean_sequences(diffusion, sequences.shape[1])
        weights = torch.zeros(len(every), dtype=torch.float64)
        weights[numbers] = law
        weights = weights / weights.sum() + amount
        return cls(weights / weights.sum(), every, diffusion)

    @property
    def length(self) -> int:
        """L."""
        return self.sequences.shape[1]

    @cached_property
    def states(self) -> Tokens:
        """Every token sequence, with noise tokens, in product order, (K^L, L)."""
        return all_sequences(torch.arange(self.diffusion.vocab_size), self.length)

    @cached_property
    def marginals(self) -> Tensor:
        """p(x_0^i = v), (L, K)."""
        tokens = clean_tokens(self.diffusion)
        own = marginals(self.table.flatten(), len(tokens), self.length)
        return own.new_zeros(self.length, self.diffusion.vocab_size).index_copy(1, tokens, own)

    @property
    def entropy(self) -> float:
        """- sum p log p of the law, in nats."""
        return float(entropy(self.law))

    @property
    def total_correlation(self) -> float:
        """sum_i H(x_0^i) - H(x_0), in nats: what independent positions miss."""
        return float(entropy(self.marginals).sum()) - self.entropy

    @cached_property
    def table(self) -> Tensor:
        """The law in product order, (C^h, C^(L - h))."""
        numbers = _numbers(self.sequences, self.diffusion)
        size = len(clean_tokens(self.diffusion))
        return (
            torch.empty_like(self.law)
            .index_copy(0, numbers, self.law)
            .view(size ** (self.length // 2), -1)
        )

    def log_conditional(self, x_t: Tokens, t: Tensor | float) -> LogProbs:
        """log p(x_0^i | x_t), float64 (B, L, K); `LOG_ZERO` stands for log 0.

        Args:
            x_t: int64 (B, L).
            t: in [0, 1], () or (B,).

        Raises:
            ValueError: for another length, tokens outside the vocabulary, or an x_t that no data
                can have become by t (a mask at t = 0).
        """
        self.diffusion.check_tokens(x_t)
        if x_t.ndim != 2 or x_t.shape[1] != self.length:
            raise ValueError(
                f"x_t has shape {tuple(x_t.shape)}; (B, {self.length}) is needed, as long as the "
                "problem's sequences."
            )
        t = times(t).to(x_t.device).expand(len(x_t))
        size = rows_per_chunk(self.diffusion.vocab_size, self.length)
        chunks = zip(x_t.split(size), t.split(size), strict=True)
        return torch.cat([self._posterior(*chunk) for chunk in chunks])

    def _posterior(self, x_t: Tokens, t: Tensor) -> LogProbs:
        tokens, table = (x.to(x_t.device) for x in (clean_tokens(self.diffusion), self.table))
        columns = self.diffusion.kernel(torch.zeros_like(t), t).columns(x_t)[..., tokens]
        # Rounding leaves some kernels with -1e-17. Scaled, so that products cannot underflow.
        columns = columns.clamp_min(0)
        most = columns.amax(-1, keepdim=True)
        if not bool((most > 0).all()):
            row = int((most[..., 0] == 0).any(-1).nonzero()[0, 0])
            raise ValueError(
                f"No data can have become x_t = {x_t[row].tolist()} by t = {float(t[row]):.4g}, "
                "so p(x_0 | x_t) is 0 / 0."
            )
        first, last = halves(columns / most)
        size, middle = len(tokens), self.length // 2
        weights = torch.cat(
            [
                marginals(first * (last @ table.mT), size, middle),
                marginals(last * (first @ table), size, self.length - middle),
            ],
            1,
        )
        log_p = (weights / weights.sum(-1, keepdim=True)).log().clamp_min(LOG_ZERO)
        whole = log_p.new_full((*x_t.shape, self.diffusion.vocab_size), LOG_ZERO)
        return whole.index_copy(-1, tokens, log_p)

    def denoiser(self) -> Denoiser:
        """The exact teacher: its network, in float64, knows every conditional, and reads no time
        where masks tell it."""

        def network(x_t: Tokens, t: Tensor | None, at: Tensor | None = None, **_: Any) -> Tensor:
            log_p = self.log_conditional(x_t, ANY_TIME if t is None else t)
            return log_p if at is None else log_p.flatten(0, 1)[at]

        reads = None if self.diffusion.reveals else "t"
        return NetworkDenoiser(network, self.diffusion, Conditional(), reads_time=reads)


def _numbers(sequences: Tensor, diffusion: Diffusion) -> Tensor:
    """The places of clean sequences (M, L) among all clean sequences."""
    tokens = clean_tokens(diffusion)
    return sequence_numbers(torch.searchsorted(tokens, sequences), len(tokens))


def _check_law(law: Tensor, sequences: Tensor, diffusion: Diffusion) -> Tensor:
    """Raise unless `law` gives weights to distinct clean sequences; their places otherwise."""
    if sequences.ndim != 2 or sequences.dtype != torch.int64 or law.shape != sequences.shape[:1]:
        raise ValueError(
            f"Got a law of shape {tuple(law.shape)} and {sequences.dtype} sequences of shape "
            f"{tuple(sequences.shape)}; (M,) and int64 (M, L) are needed."
        )
    check_space(diffusion.vocab_size, sequences.shape[1])
    diffusion.check_tokens(sequences)
    if bool((noisy := ~torch.isin(sequences, clean_tokens(diffusion))).any()):
        raise ValueError(
            f"The sequences hold token {int(sequences[noisy][0])}, which under "
            f"{diffusion.process.id} is noise that data never hold."
        )
    if not bool(((law >= 0) & law.isfinite()).all()):
        raise ValueError(f"Probabilities are finite and at least 0, got {float(law.min())}.")
    numbers = _numbers(sequences, diffusion)
    if repeated := len(numbers) - len(numbers.unique()):
        raise ValueError(f"{repeated} of {len(numbers)} sequences are repeated; give each once.")
    return numbers
