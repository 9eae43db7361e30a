"""Masking: a token jumps to the mask and stays there."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from torch import Tensor

from hf_ddistill.linalg import ScalarPlusLowRank
from hf_ddistill.processes.process import (
    Process,
    check_mask,
    check_vocabulary,
    point_mass,
    to_limit,
)


@dataclass(frozen=True)
class Absorbing(Process):
    """Q = 1 e_m^T - I: each token is masked at rate 1, alpha = exp(-sigma) of them are left.

    At an unmasked x_t, p(x_0 | x_t) is a point mass: nothing but x_t itself can have become x_t.

    Args:
        vocab_size: K, the mask included.
        mask_token_id: m; the last token where it is not given.
    """

    vocab_size: int
    mask_token_id: int | None = None  # type: ignore[assignment]
    citation: ClassVar[str] = (
        "Austin et al., Structured Denoising Diffusion Models, 2021, arXiv:2107.03006"
    )

    def __post_init__(self) -> None:
        check_vocabulary(self.vocab_size)
        if self.mask_token_id is None:
            object.__setattr__(self, "mask_token_id", self.vocab_size - 1)
        check_mask(self.mask_token_id, self.vocab_size)

    @property
    def redraws(self) -> bool:
        return True

    @property
    def reveals(self) -> bool:
        return True

    @cached_property
    def _rate(self) -> ScalarPlusLowRank:
        return to_limit(self.limit())

    def rate(self, sigma: Tensor | None = None) -> ScalarPlusLowRank:
        return self._rate

    @cached_property
    def _limit(self) -> Tensor:
        return point_mass(self.mask_token_id, self.vocab_size)

    def limit(self) -> Tensor:
        return self._limit

    @classmethod
    def example(cls, vocab_size: int) -> Absorbing:
        return cls(vocab_size)
