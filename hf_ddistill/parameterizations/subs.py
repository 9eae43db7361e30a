"""MDLM's substitution: what is no mask is carried over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from hf_ddistill.diffusion import Diffusion
from hf_ddistill.parameterizations.normalised import normalised
from hf_ddistill.parameterizations.parameterization import Parameterization
from hf_ddistill.shapes import LogProbs, Tokens


@dataclass(frozen=True)
class Subs(Parameterization):
    """`conditional`, and an x_t that is no mask is carried over (MDLM). Only for Absorbing."""

    citation: ClassVar[str] = (
        "Sahoo et al., Simple and Effective Masked Diffusion, 2024, arXiv:2406.07524"
    )

    def to_log_conditional(
        self, output: Tensor, diffusion: Diffusion, x_t: Tokens, t: Tensor | None
    ) -> LogProbs:
        return normalised(output, diffusion, x_t)
