"""Autoregressive heads, whose logits speak of the next token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hf_ddistill.diffusion import Diffusion
from hf_ddistill.parameterizations.normalised import normalised
from hf_ddistill.parameterizations.parameterization import Parameterization
from hf_ddistill.shapes import LogProbs, Tokens


@dataclass(frozen=True)
class Shifted(Parameterization):
    """An autoregressive head: the logits at i - 1 speak of token i (Dream); 0 keeps its own."""

    citation: ClassVar[str] = (
        "Ye et al., Dream 7B: Diffusion Large Language Models, 2025, arXiv:2508.15487"
    )

    def to_log_conditional(
        self, output: Tensor, diffusion: Diffusion, x_t: Tokens, t: Tensor | None
    ) -> LogProbs:
        shifted = torch.cat([output[:, :1], output[:, :-1]], 1)
        return normalised(shifted, diffusion, x_t)

    def source(self, positions: Tensor) -> Tensor:
        return (positions - 1).clamp_min(0)

    def from_log_conditional(
        self, log_p: LogProbs, diffusion: Diffusion, x_t: Tokens, t: Tensor | None
    ) -> Tensor:
        raise ValueError(
            "A shifted head shares position 0 between tokens 0 and 1: no output says every one."
        )
