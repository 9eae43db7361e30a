"""Mask and uniform noise together (GIDD), in closed form although the mixture changes on the
way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from hf_ddistill.linalg import ScalarPlusLowRank
from hf_ddistill.processes.process import Process, check_mask, check_vocabulary, point_mass


@dataclass(frozen=True)
class Hybrid(Process):
    """P_0t = a I + 1 (m e_mask + u unif)^T with the shares a, m, u of the data, of masks and of
    uniform tokens.

    With the share of noise tau = 1 - exp(-sigma) (it is t under LogLinear) and c = B sqrt(tau (1 -
    tau)), B = 2 w / (1 - w):  a = (1 - tau) / (1 + c),  m = tau / (1 + c),  u = c / (1 + c).  So
    the share of uniform tokens rises to w halfway and is gone at the end, where all is mask (GIDD,
    Eq. 8 with gamma = 1). With `constant=True` the mixture stays the same: a = 1 - tau, m = (1 -
    w) tau, u = w tau, a commuting process.

    Args:
        vocab_size: K, the mask included; uniform tokens are drawn from the others.
        uniform: w in [0, 1), the mixing weight; 0 is Absorbing.
        mask_token_id: the last token where it is not given.
        constant: keep the mixture the same at all times.
        left_out: tokens that no token becomes, such as those which begin and end a text.
    """

    vocab_size: int
    uniform: float = 0.1
    mask_token_id: int | None = None  # type: ignore[assignment]
    constant: bool = False
    left_out: Sequence[int] = ()
    citation: ClassVar[str] = (
        "von Rutte et al., Generalized Interpolating Discrete Diffusion, 2025, arXiv:2503.04482"
    )

    def __post_init__(self) -> None:
        check_vocabulary(self.vocab_size, 3)
        if self.mask_token_id is None:
            object.__setattr__(self, "mask_token_id", self.vocab_size - 1)
        check_mask(self.mask_token_id, self.vocab_size)
        if not 0 <= self.uniform < 1:
            raise ValueError(f"uniform, the mixing weight, must lie in [0, 1), got {self.uniform}.")
        object.__setattr__(self, "left_out", tuple(sorted({*self.left_out})))
        drawn = range(self.vocab_size)
        known = all(token in drawn and token != self.mask_token_id for token in self.left_out)
        if not known or len(drawn) - 1 - len(self.left_out) < 2:
            raise ValueError(
                "left_out must be tokens other than the mask, and leave at least two, got "
                f"{list(self.left_out)} of {self.vocab_size}."
            )

    @property
    def reveals(self) -> bool:
        return self.uniform == 0

    @property
    def is_flat(self) -> bool:
        return not self.left_out

    @cached_property
    def _laws(self) -> Tensor:
        mask = point_mass(self.mask_token_id, self.vocab_size)
        drawn = 1 - mask
        for token in self.left_out:
            drawn[token] = 0
        return torch.stack([mask, drawn / drawn.sum()], 1)

    @cached_property
    def _ones(self) -> Tensor:
        return torch.ones(self.vocab_size, 2, dtype=torch.float64)

    def shares(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """What is left of the data (...,) and the shares of mask and of uniform tokens (..., 2) at
        a total noise."""
        alpha, tau = torch.exp(-sigma), -torch.expm1(-sigma)
        if self.constant:
            return alpha, torch.stack([(1 - self.uniform) * tau, self.uniform * tau], -1)
        c = self._swell(sigma)
        return alpha / (1 + c), torch.stack([tau, c], -1) / (1 + c)[..., None]

    def _swell(self, sigma: Tensor) -> Tensor:
        """c, the weight of the uniform tokens beside those of data and masks, which sum to 1."""
        share = -torch.expm1(-sigma) * torch.exp(-sigma)
        return 2 * self.uniform / (1 - self.uniform) * torch.sqrt(share)

    def _operator(self, scalar: Tensor, weights: Tensor) -> ScalarPlusLowRank:
        core = torch.diag_embed(weights)
        return ScalarPlusLowRank(scalar, self._ones, core, self._laws, afresh=True)

    def kernel(self, sigma_s: Tensor, sigma_t: Tensor) -> ScalarPlusLowRank:
        sigma_s, sigma_t = torch.as_tensor(sigma_s).double(), torch.as_tensor(sigma_t).double()
        noise_s, noise_t = self.shares(sigma_s)[1], self.shares(sigma_t)[1]
        # a_t / a_s, where both may be too small for float64.
        left = torch.exp(sigma_s - sigma_t)
        if not self.constant:
            left = left * (1 + self._swell(sigma_s)) / (1 + self._swell(sigma_t))
        return self._operator(left, (noise_t - left[..., None] * noise_s).clamp_min(0))

    def rate(self, sigma: Tensor | None = None) -> ScalarPlusLowRank:
        """dP_st / d sigma_t at s = t; at sigma = log 2 (half the noise) where no total noise is
        given.

        Raises:
            ValueError: at sigma = 0, where it is infinite, unless the mixture is constant.
        """
        sigma = (
            torch.tensor(2.0, dtype=torch.float64).log()
            if sigma is None
            else torch.as_tensor(sigma).double()
        )
        # exact derivatives of the closed form: d tau / d sigma = alpha, d c / d sigma = c (alpha -
        # tau) / (2 tau)
        alpha, tau = torch.exp(-sigma), -torch.expm1(-sigma)
        if self.constant or self.uniform == 0:
            one = torch.ones_like(sigma)
            return self._operator(
                -one, torch.stack([(1 - self.uniform) * one, self.uniform * one], -1)
            )
        if bool((sigma == 0).any()):
            raise ValueError(
                "Hybrid has no rate where there is no noise (t = 0): its share of uniform tokens "
                "grows like sqrt(t), infinitely fast at first; ask for a later time."
            )
        c = self._swell(sigma)
        slope = c * (alpha - tau) / (2 * tau)
        scalar = -1 - slope / (1 + c)
        # (m_t)' = ((tau / (1 + c))' - a' / a m_t), and the same for u_t
        mask = (alpha + tau) / (1 + c)
        uniform = (slope + c) / (1 + c)
        return self._operator(scalar, torch.stack([mask, uniform], -1))

    @cached_property
    def _limit(self) -> Tensor:
        weights = torch.tensor(
            [1 - self.uniform, self.uniform] if self.constant else [1.0, 0.0], dtype=torch.float64
        )
        return self._laws @ weights

    def limit(self) -> Tensor:
        return self._limit

    @classmethod
    def example(cls, vocab_size: int) -> Hybrid:
        return cls(vocab_size, uniform=0.2)
