"""From a prediction, log p(x_0 | x_t), to the concrete score and back.

With w = p(x_0 | x_t) / P_0t[x_0, x_t] (0 where the kernel is 0):
    score       = P_0t.vecmat(w), the ratios p_t(y) / p_t(x_t), 1 at x_t
    conditional = P_0t.columns(x_t) * P_0t.inverse().vecmat(score)    (ECD, arXiv:2512.12889, Eq. 8)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

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
