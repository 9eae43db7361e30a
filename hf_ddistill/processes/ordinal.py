"""Levels in an order, such as the brightness of a pixel: a token moves one level up or down at a
time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from hf_ddistill.linalg import Tridiagonal
from hf_ddistill.processes.process import Process, check_vocabulary


@dataclass(frozen=True)
class Ordinal(Process):
    """Birth-death with reflecting ends, Q = -g L with L the Laplacian of a path; the limit law is
    uniform.

    g = 1 / (2 - 2 cos(pi / K)) makes the slowest mode decay like exp(-sigma), so that a schedule
    means the same here as for Uniform. The fastest mode then decays about K^2 times as fast: at
    large sigma the kernel cannot be inverted in float64, and a conditional cannot be recovered
    from ratios (`hf-ddistill diagnose` shows where).

    Args:
        vocab_size: K levels, at most 4,096.
    """

    vocab_size: int
    citation: ClassVar[str] = (
        "Campbell et al., A Continuous Time Framework for Discrete Denoising, 2022, "
        "arXiv:2205.14987"
    )

    def __post_init__(self) -> None:
        check_vocabulary(self.vocab_size)
        if self.vocab_size > 4096:
            raise ValueError(
                f"Ordinal takes at most 4096 levels (its basis is K x K), got {self.vocab_size}."
            )

    @cached_property
    def _rate(self) -> Tridiagonal:
        speed = 1 / (2 - 2 * math.cos(math.pi / self.vocab_size))
        rates = torch.full((self.vocab_size - 1,), speed, dtype=torch.float64)
        return Tridiagonal(rates, rates)

    def rate(self, sigma: Tensor | None = None) -> Tridiagonal:
        return self._rate

    def limit(self) -> Tensor:
        return self._rate.stationary

    @classmethod
    def example(cls, vocab_size: int) -> Ordinal:
        return cls(vocab_size)
