"""Networks that take the place of x_0 in q(x_s | x_t, x_0): Duo, UDLM, GIDD."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hf_ddistill.diffusion import Diffusion
from hf_ddistill.parameterizations.normalised import normalised
from hf_ddistill.parameterizations.parameterization import Parameterization
from hf_ddistill.shapes import LOG_ZERO, LogProbs, Tokens


@dataclass(frozen=True)
class GivenOthers(Parameterization):
    """Logits of p(x_0^i | x_t without position i), as Duo, UDLM and GIDD train them:
    p(x_0 | x_t) is that times P_0t[x_0, x_t], normalised.

    Their samplers put the output in the place of x_0 in q(x_s | x_t, x_0), which is exact for this
    law and not for p(x_0 | x_t). Under Absorbing the two are the same at a mask.

    References: Sahoo et al., The Diffusion Duality, 2025, arXiv:2506.10892; Schiff et al., 2024,
    arXiv:2412.10193; von Rütte et al., Generalized Interpolating Discrete Diffusion, 2025,
    arXiv:2503.04482.
    """

    reads_time: ClassVar[bool] = True
    citation: ClassVar[str] = (
        "Schiff et al., Simple Guidance Mechanisms for Discrete Diffusion Models, 2024, "
        "arXiv:2412.10193"
    )

    def to_log_conditional(
        self, output: Tensor, diffusion: Diffusion, x_t: Tokens, t: Tensor
    ) -> LogProbs:
        column = self._column(diffusion, x_t, t, output)
        reached = torch.where(column > 0, column.log(), LOG_ZERO)
        return (normalised(output, diffusion) + reached).log_softmax(-1)

    def from_log_conditional(
        self, log_p: LogProbs, diffusion: Diffusion, x_t: Tokens, t: Tensor
    ) -> Tensor:
        column = self._column(diffusion, x_t, t, log_p)
        return log_p - torch.where(column > 0, column.log(), 0.0)

    def _column(self, diffusion: Diffusion, x_t: Tokens, t: Tensor, like: Tensor) -> Tensor:
        """P_0t[., x_t]; a rounding error below 0 counts as 0."""
        kernel = diffusion.kernel(torch.zeros_like(t), t)
        return kernel.columns(x_t, like.dtype).clamp_min(0)
