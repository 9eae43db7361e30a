"""The judge that needs nothing: how varied the samples are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from hf_ddistill.evaluation.diversity import (
    corpus_entropy,
    pad_tokens,
    token_entropy,
    unique_fraction,
)
from hf_ddistill.evaluation.judge import Figures, Judge, Samples


@dataclass(frozen=True)
class DiversityJudge(Judge):
    """How varied tokens are: mean unigram entropy of a sample, entropy of all, distinct samples.

    Quality is not among them: read them beside another judge's figures.

    References:
        Masked Diffusion Models are Secretly Time-Agnostic Masked Models and Exploit Inaccurate
        Categorical Sampling (Zheng et al., 2024), arXiv:2409.02908.
    """

    id: ClassVar[str] = "diversity"
    primary: ClassVar[str] = "entropy"
    higher_is_better: ClassVar[bool] = True

    def __call__(self, samples: Samples) -> Figures:
        """`entropy`, `corpus_entropy` (nats) and `unique` (share) of (N, L) tokens or of rows.

        Raises:
            ValueError: if there is no sample, or one has no token.
        """
        tokens, mask = (samples, None) if isinstance(samples, Tensor) else pad_tokens(samples)
        return {
            "entropy": token_entropy(tokens, mask),
            "corpus_entropy": corpus_entropy(tokens, mask),
            "unique": unique_fraction(tokens, mask),
        }

    @classmethod
    def example(cls) -> tuple[Self, Samples]:
        """Rows of unequal lengths."""
        return cls(), [torch.tensor([0, 1, 1]), torch.tensor([2, 0])]
