"""Remasking: a step may take back what an earlier one revealed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from hf_ddistill.diffusion import Diffusion
from hf_ddistill.samplers.remasking import Remasking, check_strategy, sigma
from hf_ddistill.samplers.sampler import Sampler


@dataclass(frozen=True)
class ReMDM(Remasking, Sampler):
    """Ancestral steps of masked diffusion that mask revealed tokens again, with chance sigma.

        x_t = m:  x_s ~ p(x_0 | x_t) with chance (alpha_s - (1 - sigma) alpha_t) / (1 - alpha_t)
        else:     x_s = m with chance sigma <= sigma_max = min(1, (1 - alpha_s) / alpha_t)

    As many tokens are left at s as without it, so that any denoiser of masks will do, and a later
    call can mend an earlier one. sigma = 0 is ancestral.

    Args:
        strategy: "cap" (sigma = min(eta, sigma_max)), "rescale" (eta sigma_max), or
            "forward_backward" (eta (alpha_s - alpha_t) / alpha_t: as much is masked as revealed,
            the corrector of Campbell et al., 2022, arXiv:2205.14987, in one step).
        eta: in [0, 1].

    Raises:
        ValueError: for others; from `check`, for a process without a mask that reveals.
    """

    strategy: str = "cap"
    eta: float = 0.04
    id: ClassVar[str] = "remdm"

    def __post_init__(self) -> None:
        check_strategy(self.strategy, self.eta)

    def sigma(self, diffusion: Diffusion, s: Tensor | float, t: Tensor | float) -> Tensor:
        """The chance of a revealed token to be masked again."""
        return sigma(self.strategy, self.eta, diffusion, s, t)
