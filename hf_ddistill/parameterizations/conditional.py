"""Logits of p(x_0 | x_t)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from hf_ddistill.diffusion import Diffusion
from hf_ddistill.parameterizations.normalised import normalised
from hf_ddistill.parameterizations.parameterization import Parameterization
from hf_ddistill.shapes import LogProbs, Tokens


@dataclass(frozen=True)
class Conditional(Parameterization):
    """Logits of p(x_0 | x_t); tokens that the data never hold get probability 0."""

    citation: ClassVar[str] = (
        "Austin et al., Structured Denoising Diffusion Models, 2021, arXiv:2107.03006"
    )

    def to_log_conditional(
        self, output: Tensor, diffusion: Diffusion, x_t: Tokens, t: Tensor | None
    ) -> LogProbs:
        return normalised(output, diffusion)
