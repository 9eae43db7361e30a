"""From a network's output to the one currency, log p(x_0 | x_t), to the concrete score and back.

With w = p(x_0 | x_t) / P_0t[x_0, x_t] (0 where the kernel is 0):
    score       = P_0t.vecmat(w), the ratios p_t(y) / p_t(x_t), 1 at x_t
    conditional = P_0t.columns(x_t) * P_0t.inverse().vecmat(score)    (ECD, arXiv:2512.12889, Eq. 8)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from hf_ddistill.configurable import Configurable
from hf_ddistill.diffusion import Diffusion, times
from hf_ddistill.shapes import LOG_ZERO, LogProbs, Probs, Tokens


@dataclass(frozen=True)
class Prediction:
    """What a denoiser says of the clean tokens.

    Args:
        log_conditional: log p(x_0 | x_t) for each position, (B, L, K).
    """

    log_conditional: LogProbs

    def score(self, diffusion: Diffusion, x_t: Tokens, t: Tensor | float) -> Probs:
        """The concrete score p_t(y) / p_t(x_t) of every y at each position, (B, L, K)."""
        kernel = diffusion.kernel(torch.zeros_like(times(t)), times(t).to(x_t.device))
        score = kernel.vecmat(self.weights(kernel.columns(x_t, self.log_conditional.dtype)))
        return score / score.gather(-1, x_t[..., None])

    def weights(self, column: Probs) -> Probs:
        """w = p(x_0 | x_t) / P_0t[x_0, x_t], given that column of P_0t; 0 where it is 0."""
        # A column of 1 where it is 0: a division by 0 that `where` drops still has a gradient, NaN.
        possible = torch.where(column > 0, column, torch.ones_like(column))
        weights = self.log_conditional.exp() / possible
        return torch.where(column > 0, weights, torch.zeros_like(column))

    @classmethod
    def from_score(
        cls, score: Probs, diffusion: Diffusion, x_t: Tokens, t: Tensor | float
    ) -> Prediction:
        """ECD's recovery (Eq. 8) in closed form; negative probabilities (of ratios that no law has)
        are clamped.

        Raises:
            ValueError: if a position is left with no mass, or the kernel cannot be inverted.
        """
        conditional = recover(score, diffusion, x_t, t).clamp_min(0)
        noise = list(diffusion.process.noise_tokens)
        conditional = conditional.index_fill(-1, torch.tensor(noise, device=x_t.device).long(), 0)
        total = conditional.sum(-1, keepdim=True)
        if not bool(((total > 0) & total.isfinite()).all()):
            raise ValueError(
                "p(x_0 | x_t) cannot be recovered from these ratios: the kernel at this much noise "
                f"cannot be inverted in {score.dtype}, or the ratios belong to no law; "
                "`hf-ddistill diagnose` shows up to which t it can."
            )
        return cls((conditional / total).log().clamp_min(LOG_ZERO))


def recover(score: Probs, diffusion: Diffusion, x_t: Tokens, t: Tensor | float) -> Probs:
    """p(x_0 | x_t) from exact ratios, as the formula gives it: neither clamped nor normalised."""
    kernel = diffusion.kernel(torch.zeros_like(times(t)), times(t).to(x_t.device))
    return kernel.columns(x_t, score.dtype) * kernel.inverse().vecmat(score)


class Parameterization(Configurable, ABC):
    """How a network's output (B, L, K) is read as log p(x_0 | x_t), and the way back."""

    @abstractmethod
    def to_log_conditional(
        self, output: Tensor, diffusion: Diffusion, x_t: Tokens, t: Tensor
    ) -> LogProbs:
        """log p(x_0 | x_t) from the network's output."""

    @abstractmethod
    def from_log_conditional(
        self, log_p: LogProbs, diffusion: Diffusion, x_t: Tokens, t: Tensor
    ) -> Tensor:
        """An output that is read as `log_p`."""

    def source(self, positions: Tensor) -> Tensor:
        """The positions of the output that speak of the tokens at `positions`."""
        return positions


def normalised(logits: Tensor, diffusion: Diffusion) -> LogProbs:
    """Log-probabilities from logits, with none for the tokens that the data never hold."""
    noise = list(diffusion.process.noise_tokens)
    if noise:
        logits = logits.index_fill(-1, torch.tensor(noise, device=logits.device), LOG_ZERO)
    return logits.log_softmax(-1)


def carried_over(log_p: LogProbs, diffusion: Diffusion, x_t: Tokens) -> LogProbs:
    """Where x_t is no mask, certainty of x_t (MDLM's substitution).

    Raises:
        ValueError: for a process under which a token can have been another one.
    """
    if not diffusion.reveals:
        raise ValueError(
            "'subs' and 'shifted' carry unmasked tokens over, which only Absorbing allows; "
            f"{diffusion.process.id} takes 'conditional'."
        )
    open_ = diffusion.undetermined(x_t)
    if bool(open_.all()):
        # No second (B, L, K) where only masked positions were asked for.
        return log_p
    certain = torch.full_like(log_p[:, :1], LOG_ZERO).expand_as(log_p)
    return torch.where(open_[..., None], log_p, certain.scatter(-1, x_t[..., None], 0.0))


@dataclass(frozen=True)
class Conditional(Parameterization):
    """Logits of p(x_0 | x_t); tokens that the data never hold get probability 0."""

    citation: ClassVar[str] = (
        "Austin et al., Structured Denoising Diffusion Models, 2021, arXiv:2107.03006"
    )

    def to_log_conditional(
        self, output: Tensor, diffusion: Diffusion, x_t: Tokens, t: Tensor
    ) -> LogProbs:
        return normalised(output, diffusion)

    def from_log_conditional(
        self, log_p: LogProbs, diffusion: Diffusion, x_t: Tokens, t: Tensor
    ) -> Tensor:
        return log_p


@dataclass(frozen=True)
class Subs(Parameterization):
    """`conditional`, and an x_t that is no mask is carried over (MDLM). Only for Absorbing."""

    citation: ClassVar[str] = (
        "Sahoo et al., Simple and Effective Masked Diffusion, 2024, arXiv:2406.07524"
    )

    def to_log_conditional(
        self, output: Tensor, diffusion: Diffusion, x_t: Tokens, t: Tensor
    ) -> LogProbs:
        return carried_over(normalised(output, diffusion), diffusion, x_t)

    def from_log_conditional(
        self, log_p: LogProbs, diffusion: Diffusion, x_t: Tokens, t: Tensor
    ) -> Tensor:
        return log_p


@dataclass(frozen=True)
class Shifted(Parameterization):
    """An autoregressive head: the logits at i - 1 speak of token i (Dream); 0 keeps its own."""

    citation: ClassVar[str] = (
        "Ye et al., Dream 7B: Diffusion Large Language Models, 2025, arXiv:2508.15487"
    )

    def to_log_conditional(
        self, output: Tensor, diffusion: Diffusion, x_t: Tokens, t: Tensor
    ) -> LogProbs:
        shifted = torch.cat([output[:, :1], output[:, :-1]], 1)
        return carried_over(normalised(shifted, diffusion), diffusion, x_t)

    def source(self, positions: Tensor) -> Tensor:
        return (positions - 1).clamp_min(0)

    def from_log_conditional(
        self, log_p: LogProbs, diffusion: Diffusion, x_t: Tokens, t: Tensor
    ) -> Tensor:
        raise ValueError(
            "A shifted head shares position 0 between tokens 0 and 1: no output says every one."
        )


@dataclass(frozen=True)
class Score(Parameterization):
    """The logarithm of the concrete score, as SEDD's network gives it; 0 at x_t.

    Args:
        scale_by_sigma: SEDD's scaling for Absorbing,
            log score = output - log(e^sigma - 1) - log(K - 1).
    """

    scale_by_sigma: bool = False
    citation: ClassVar[str] = (
        "Lou et al., Discrete Diffusion Modeling by Estimating the Ratios, 2024, arXiv:2310.16834"
    )

    def _offset(self, diffusion: Diffusion, t: Tensor) -> Tensor:
        if not self.scale_by_sigma:
            return torch.zeros(1, 1, 1, dtype=torch.float64)
        noise = torch.expm1(diffusion.schedule.sigma(t)) * (diffusion.vocab_size - 1)
        return noise.log()[:, None, None]

    def log_score(self, output: Tensor, diffusion: Diffusion, x_t: Tokens, t: Tensor) -> Tensor:
        """The logarithm of the concrete score, 0 at x_t."""
        return (output - self._offset(diffusion, t).to(output)).scatter(-1, x_t[..., None], 0.0)

    def to_log_conditional(
        self, output: Tensor, diffusion: Diffusion, x_t: Tokens, t: Tensor
    ) -> LogProbs:
        # In float64: the inverse kernel subtracts numbers that agree in many digits.
        score = self.log_score(output.double(), diffusion, x_t, t).exp()
        return Prediction.from_score(score, diffusion, x_t, t).log_conditional.to(output.dtype)

    def from_log_conditional(
        self, log_p: LogProbs, diffusion: Diffusion, x_t: Tokens, t: Tensor
    ) -> Tensor:
        score = Prediction(log_p).score(diffusion, x_t, t)
        return score.clamp_min(torch.finfo(score.dtype).tiny).log() + self._offset(diffusion, t).to(
            log_p
        )


@dataclass(frozen=True)
class Denoiser:
    """A network with the diffusion that it was trained for: (x_t, t, **condition) -> Prediction.

    Args:
        network: (x_t (B, L), t (B,), **condition) -> (B, L, K).
        diffusion: process and schedule.
        parameterization: how the output is read.
    """

    network: Callable[..., Tensor]
    diffusion: Diffusion
    parameterization: Parameterization = Subs()

    def __call__(self, x_t: Tokens, t: Tensor | float, **condition: Any) -> Prediction:
        t = times(t).to(x_t.device).expand(x_t.shape[0])
        output = self.network(x_t, t, **condition)
        if output.shape != (*x_t.shape, self.diffusion.vocab_size):
            raise ValueError(
                f"The network gives {tuple(output.shape)}, but the process has "
                f"vocab_size={self.diffusion.vocab_size}: "
                f"{(*x_t.shape, self.diffusion.vocab_size)} is needed."
            )
        return self._read(output, x_t, t)

    def at(self, x_t: Tokens, t: Tensor | float, where: Tensor, **condition: Any) -> Prediction:
        """The prediction at the N positions of `where` alone, as N rows of length 1: (N, 1, K).

        Only those go through the network's output head, where it has one that can be asked (`at=`).
        """
        t = times(t).to(x_t.device).expand(x_t.shape[0])
        rows, positions = where.nonzero(as_tuple=True)
        source = self.parameterization.source(positions)
        if source is positions:
            output = self.network(x_t, t, at=where, **condition)
        else:
            asked = torch.zeros_like(where)
            asked[rows, source] = True
            number = (asked.flatten().cumsum(0) - 1).view_as(where)
            output = self.network(x_t, t, at=asked, **condition)[number[rows, source]]
        return self._read(output[:, None], x_t[where][:, None], t[rows])

    def _read(self, output: Tensor, x_t: Tokens, t: Tensor) -> Prediction:
        output = output if output.dtype == torch.float64 else output.float()
        log_p = self.parameterization.to_log_conditional(output, self.diffusion, x_t, t)
        return Prediction(log_p)
