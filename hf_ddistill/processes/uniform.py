"""Uniform noise: a token is replaced by any token."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from hf_ddistill.linalg import ScalarPlusLowRank
from hf_ddistill.processes.process import Process, check_vocabulary, to_limit


@dataclass(frozen=True)
class Uniform(Process):
    """Q = 1 1^T / K - I (the convention of SEDD, UDLM and Duo; it may draw the same token again).

    Args:
        vocab_size: K.
    """

    vocab_size: int
    citation: ClassVar[str] = (
        "Austin et al., Structured Denoising Diffusion Models, 2021, arXiv:2107.03006"
    )

    def __post_init__(self) -> None:
        check_vocabulary(self.vocab_size)

    @property
    def redraws(self) -> bool:
        return True

    @property
    def is_flat(self) -> bool:
        return True

    @cached_property
    def _rate(self) -> ScalarPlusLowRank:
        return to_limit(self.limit())

    def rate(self, sigma: Tensor | None = None) -> ScalarPlusLowRank:
        return self._rate

    @cached_property
    def _limit(self) -> Tensor:
        return torch.full((self.vocab_size,), 1 / self.vocab_size, dtype=torch.float64)

    def limit(self) -> Tensor:
        return self._limit

    @classmethod
    def example(cls, vocab_size: int) -> Uniform:
        return cls(vocab_size)
