"""The time of a state that has no time of its own: that at which so much is masked."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_ddistill.diffusion import Diffusion, times


def masked_share(diffusion: Diffusion, t: Tensor | float) -> Tensor:
    """1 - alpha_t, the share of the tokens that is masked at t; none at t = 0."""
    return -torch.expm1(-diffusion.total_noise(times(t)))


def time_of_share(diffusion: Diffusion, share: Tensor) -> Tensor:
    """The time at which a share is masked, the inverse of `masked_share`."""
    kept = 1 - share.double()
    time = diffusion.schedule.inverse(-kept.clamp_min(1e-12).log())
    return torch.where(kept > 0, time, 1.0).clamp(0, 1)
