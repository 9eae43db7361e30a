"""The contract of a forward process, in its own clock: the total noise sigma."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property

import torch
from torch import Tensor

from hf_ddistill.configurable import Configurable
from hf_ddistill.linalg import LinearOperator, ScalarPlusLowRank, on


class Process(Configurable, ABC):
    """A continuous-time Markov chain over K tokens with rate matrix Q: kernel exp((sigma_t -
    sigma_s) Q).

    References: Campbell et al., A Continuous Time Framework for Discrete Denoising Models, 2022,
    arXiv:2205.14987.
    """

    vocab_size: int

    @abstractmethod
    def rate(self, sigma: Tensor | None = None) -> LinearOperator:
        """Q, per unit of sigma; rows sum to 0. Only a process that changes over time looks at
        `sigma`."""

    @abstractmethod
    def limit(self) -> Tensor:
        """The law (K,) of a token as sigma grows, float64."""

    @classmethod
    @abstractmethod
    def example(cls, vocab_size: int) -> Process:
        """One of its kind over `vocab_size` tokens, for the contract tests."""

    def kernel(self, sigma_s: Tensor, sigma_t: Tensor) -> LinearOperator:
        """P_st for total noises sigma_s <= sigma_t of shape () or (B,)."""
        return self.rate().exp(sigma_t - sigma_s)

    @property
    def mask_token_id(self) -> int | None:
        """The absorbing token, where there is one."""
        return None

    @property
    def reveals(self) -> bool:
        """Whether Q = 1 e_mask^T - I: a token that is no mask can only have come from itself, and
        which ones are masked says nothing of what they were."""
        return False

    @property
    def redraws(self) -> bool:
        """Whether Q = 1 law^T - I: at rate 1 a token is drawn afresh from the limit law."""
        return False

    @property
    def is_flat(self) -> bool:
        """Whether P_st[x, y] = a 1[x = y] + v(y) with one v at all tokens but the mask, a being
        the scalar of a `ScalarPlusLowRank`: what is noised becomes any token alike, or the mask."""
        return False

    @property
    def noise_tokens(self) -> tuple[int, ...]:
        """Tokens that the data never hold: p(x_0 | x_t) is zero there."""
        return () if self.mask_token_id is None else (self.mask_token_id,)

    def noise_index(self, device: torch.device) -> Tensor:
        """`noise_tokens` (n,) int64 on a device, sent there once."""
        return on(self._noise_index, device)

    @cached_property
    def _noise_index(self) -> Tensor:
        return torch.tensor(self.noise_tokens, dtype=torch.int64)


def to_limit(law: Tensor) -> ScalarPlusLowRank:
    """Q = 1 law^T - I: at rate 1 a token is drawn afresh from `law` (K,)."""
    one = torch.ones(1, 1, dtype=torch.float64)
    minus = torch.tensor(-1.0, dtype=torch.float64)
    return ScalarPlusLowRank(
        minus, torch.ones(law.shape[0], 1, dtype=torch.float64), one, law[:, None], afresh=True
    )


def point_mass(token: int, vocab_size: int) -> Tensor:
    """The law (K,) that is certain of `token`."""
    law = torch.zeros(vocab_size, dtype=torch.float64)
    law[token] = 1.0
    return law


def check_vocabulary(vocab_size: int, least: int = 2) -> None:
    """Raise if `vocab_size` is not an integer of at least `least`."""
    if not isinstance(vocab_size, int) or vocab_size < least:
        raise ValueError(f"vocab_size must be an integer of at least {least}, got {vocab_size!r}.")


def check_mask(mask_token_id: int, vocab_size: int) -> None:
    """Raise if the mask is not a token of the vocabulary."""
    if not isinstance(mask_token_id, int) or not 0 <= mask_token_id < vocab_size:
        raise ValueError(
            f"mask_token_id={mask_token_id!r} is outside the vocabulary [0, {vocab_size}); "
            "vocab_size counts the mask, so a mask appended to n tokens is n with vocab_size n + 1."
        )
