"""Two calls a step: a leap, and a second one by rates that are extrapolated from both."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from hf_ddistill.linalg import categorical
from hf_ddistill.samplers import Sampler, look
from hf_ddistill.samplers.jumps import check_pace, expected_jumps
from hf_ddistill.samplers.posterior import posterior


@dataclass(frozen=True)
class ThetaTrapezoidal(Sampler):
    """x_r by theta of the step; x_s by max(a R(x_r) - (a - 1) R(x_t), 0), a = 1 / 2 theta
    (1 - theta)."""

    theta: float = 0.5
    id: ClassVar[str] = "theta_trapezoidal"
    citation: ClassVar[str] = "Ren et al., Fast Solvers, 2025, arXiv:2502.00234, Algorithm 2"

    def check(self, diffusion):
        """As all that take the rate of the noise."""
        check_pace(self.id, diffusion)

    def step(self, denoiser, x_t, s, t, generator=None, **condition):
        """Both calls; to s = 0 the second draws x_0 itself."""
        middle, diffusion = t - self.theta * (t - s), denoiser.diffusion
        said = look(denoiser, x_t, t, generator, **condition)
        early = expected_jumps(said, diffusion, x_t, middle, t)
        x = leap(early, x_t, generator)
        said = look(denoiser, x, middle, generator, **condition)
        if not torch.as_tensor(s).any():
            return categorical(posterior(said, diffusion, x, s, middle), generator)
        late = expected_jumps(said, diffusion, x, s, middle)
        a = 1 / (2 * self.theta * (1 - self.theta))
        mixed = a * late - (a - 1) * early * (1 - self.theta) / self.theta
        return leap(mixed.clamp_min(0).scatter(-1, x[..., None], 0.0), x, generator)


def leap(jumps, x, generator):
    """One jump or none, by its expected numbers (B, L, K)."""
    one = jumps * torch.exp(-jumps.sum(-1, keepdim=True))
    return categorical(one.scatter(-1, x[..., None], 1 - one.sum(-1, keepdim=True)), generator)
