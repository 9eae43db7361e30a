"""From a prediction, log p(x_0 | x_t), to the concrete score and back.

With w = p(x_0 | x_t) / P_0t[x_0, x_t] (0 where the kernel is 0):
    score       = P_0t.vecmat(w), the ratios p_t(y) / p_t(x_t), 1 at x_t
    conditional = P_0t.columns(x_t) * P_0t.inverse().vecmat(score)    (ECD, arXiv:2512.12889, Eq. 8)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from hf_ddistill.diffusion import Diffusion, times_at
from hf_ddistill.linalg import Dense
from hf_ddistill.parameterizations.normalised import log_prob_of
from hf_ddistill.shapes import LOG_ZERO, LogProbs, PerToken, Probs, Tokens

#: Log-probabilities that are worked on at a time, on the CPU: few enough for its cache.
SOME = 2**18
#: The most that rounding may change a recovered conditional, in total variation.
RECOVERABLE = 0.01


@dataclass(frozen=True)
class Prediction:
    """What a denoiser says of the clean tokens.

    Args:
        log_conditional: log p(x_0 | x_t) for each position, (B, L, K).
    """

    log_conditional: LogProbs

    def log_prob_of(self, x_0: Tokens) -> PerToken:
        """log p(x_0 | x_t) of these tokens at each position, (B, L)."""
        return log_prob_of(self.log_conditional, x_0)

    def each(
        self, look: Callable[..., tuple[Tensor, ...]], *beside: PerToken | Tokens | Prediction
    ) -> tuple[Tensor, ...]:
        """What `look` says of each position, (B, L), a few positions at a time.

        Args:
            look: (log p (n, K), `beside` (n,)) -> tensors (n,), of each position by itself.
            *beside: (B, L), what it is given beside; of other predictions their log p (n, K).
        """
        said, _ = self._rows()
        size = max(1, (SOME if said.device.type == "cpu" else 16 * SOME) // said.shape[-1])

        def pieces(one: Tensor | Prediction) -> Iterator[Tensor]:
            values, change = one._rows() if isinstance(one, Prediction) else (one, None)
            for part in values.flatten(0, 1).split(size):
                yield part if change is None else change(part)

        found = [look(*given) for given in zip(*map(pieces, (self, *beside)), strict=True)]
        return tuple(torch.cat(parts).view(said.shape[:-1]) for parts in zip(*found, strict=True))

    def some(self, numbers: Tensor) -> Tensor:
        """The laws (n, K) at some of the B * L positions, by their numbers (n,)."""
        said, change = self._rows()
        return change(said.flatten(0, 1).index_select(0, numbers))

    def _rows(self) -> tuple[LogProbs, Callable[[Tensor], Tensor]]:
        """A tensor, and what makes the law of some of its positions."""
        return self.log_conditional, lambda log_p: log_p

    def score(self, diffusion: Diffusion, x_t: Tokens, t: Tensor | float) -> Probs:
        """The concrete score p_t(y) / p_t(x_t) of every y at each position, (B, L, K)."""
        t = times_at(t, x_t)
        kernel = diffusion.kernel(torch.zeros_like(t), t)
        weights = self.weights(kernel.columns(x_t, self.log_conditional.dtype))
        score = kernel.vecmat(weights).clamp_min(0)
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
            ValueError: if a position is left with no mass, or the kernel is so near to one without
                an inverse that the rounding of the ratios alone, in their dtype, may change the
                conditional by more than `RECOVERABLE` in total variation.
        """
        t = times_at(t, x_t)
        kernel = diffusion.kernel(torch.zeros_like(t), t)
        column = kernel.columns(x_t, score.dtype)
        try:
            inverse = kernel.inverse()
        except torch.linalg.LinAlgError:
            inverse = Dense(torch.full((kernel.size,) * 2, torch.nan, dtype=torch.float64))
        conditional = _data_tokens(column * inverse.vecmat(score), diffusion).clamp_min(0)
        moved = column.abs() * inverse.magnitude().vecmat(score.detach().abs())
        lost = _data_tokens(moved, diffusion).sum(-1, keepdim=True)
        lost = torch.finfo(score.dtype).eps / 2 * lost
        total = conditional.sum(-1, keepdim=True)
        right = (total > 0) & total.isfinite() & (lost <= RECOVERABLE * total)
        if not bool(right.all()):
            raise ValueError(
                f"p(x_0 | x_t) cannot be recovered from these ratios at {int((~right).sum())} of "
                f"{right.numel()} positions: the kernel at this much noise cannot be inverted in "
                f"{score.dtype}, or the ratios belong to no law; `hf-ddistill diagnose` shows up "
                "to which t it can."
            )
        # A 1 where it is 0: the logarithm that the clamp drops still has a gradient, NaN.
        possible = conditional > 0
        log_p = torch.where(possible, conditional / total, torch.ones_like(conditional)).log()
        return cls(log_p.clamp_min(LOG_ZERO).masked_fill(~possible, LOG_ZERO))


def recover(score: Probs, diffusion: Diffusion, x_t: Tokens, t: Tensor | float) -> Probs:
    """p(x_0 | x_t) from exact ratios, as the formula gives it: neither clamped nor normalised."""
    t = times_at(t, x_t)
    kernel = diffusion.kernel(torch.zeros_like(t), t)
    return kernel.columns(x_t, score.dtype) * kernel.inverse().vecmat(score)


def _data_tokens(values: Tensor, diffusion: Diffusion) -> Tensor:
    """The values with 0 for the tokens that data never hold."""
    return values.index_fill(-1, diffusion.process.noise_index(values.device), 0)
