"""Networks of ratios p_t(y) / p_t(x_t)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hf_ddistill.diffusion import Diffusion
from hf_ddistill.parameterizations.parameterization import Parameterization
from hf_ddistill.parameterizations.prediction import Prediction
from hf_ddistill.shapes import LogProbs, Tokens


@dataclass(frozen=True)
class Score(Parameterization):
    """The logarithm of the concrete score, as SEDD's network gives it; 0 at x_t.

    Args:
        scale_by_sigma: SEDD's scaling for Absorbing,
            log score = output - log(e^sigma - 1) - log(K - 1).
    """

    scale_by_sigma: bool = False
    reads_time: ClassVar[bool] = True
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
