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

    A masked language model that was trained to guess also tokens which were kept or replaced knows
    the token that stands at i, as sure as its training made it: of BERT's 10 % kept and 10 %
    replaced by one of n tokens, the likelihood of a kept one is 1 + n times that of another. Its
    output has log(1 + n) too much at x_t, which is `seen`, at any time t, and is taken away.

    References: Sahoo et al., The Diffusion Duality, 2025, arXiv:2506.10892; Schiff et al., 2024,
    arXiv:2412.10193; von Rütte et al., Generalized Interpolating Discrete Diffusion, 2025,
    arXiv:2503.04482; Devlin et al., BERT, 2018, arXiv:1810.04805.

    Args:
        seen: what the output has at x_t, where that is no mask, on top of what others say.
    """

    seen: float = 0.0
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
        others = self._with_own(normalised(output, diffusion), diffusion, x_t, -self.seen)
        return (others + reached).log_softmax(-1)

    def from_log_conditional(
        self, log_p: LogProbs, diffusion: Diffusion, x_t: Tokens, t: Tensor
    ) -> Tensor:
        column = self._column(diffusion, x_t, t, log_p)
        others = log_p - torch.where(column > 0, column.log(), 0.0)
        return self._with_own(others, diffusion, x_t, self.seen)

    def _with_own(self, output: Tensor, diffusion: Diffusion, x_t: Tokens, more: float) -> Tensor:
        """The output with so much more at x_t, where that is no noise token."""
        if self.seen == 0:
            return output
        noise = torch.isin(x_t, diffusion.process.noise_index(x_t.device))
        own = torch.full_like(x_t, more, dtype=output.dtype).masked_fill(noise, 0.0)
        return output.scatter_add(-1, x_t[..., None], own[..., None])

    def _column(self, diffusion: Diffusion, x_t: Tokens, t: Tensor, like: Tensor) -> Tensor:
        """P_0t[., x_t]; a rounding error below 0 counts as 0."""
        kernel = diffusion.kernel(torch.zeros_like(t), t)
        return kernel.columns(x_t, like.dtype).clamp_min(0)
