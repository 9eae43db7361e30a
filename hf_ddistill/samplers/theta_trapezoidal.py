"""Two calls a step: a leap, and a second one by rates that are extrapolated from both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from hf_ddistill.denoisers import Denoiser
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.linalg import categorical
from hf_ddistill.samplers.holding import Holding
from hf_ddistill.samplers.jumps import check_pace, check_share, expected_jumps, first_jump
from hf_ddistill.samplers.posterior import posterior
from hf_ddistill.samplers.sampler import Sampler, look
from hf_ddistill.shapes import Generators, Tokens


@dataclass(frozen=True)
class ThetaTrapezoidal(Holding, Sampler):
    """A leap to r = t - theta (t - s) by the rate R of x_t, and from x_r to s by what both rates
    say, second order in t - s (Algorithm 2).

    x_s by (t - s) (1 - theta) max(a R(x_r) - (a - 1) R(x_t), 0),  a = 1 / (2 theta (1 - theta))

    In a leap a position makes its first jump and no other (`first_jump`), and one that has jumped
    on the way to r is led on by R(x_r) alone: with jumps refused where more than one falls into a
    leap, or with rates of x_t after a jump, the order is lost. It is lost too as far as the
    maximum cuts, where a jump elsewhere takes a rate below half of what it was. The last step
    leaps to r, and draws x_0 from the conditional there.

    Args:
        theta: the share of a step that the first leap goes, in (0, 1). At 1/2 the maximum cuts
            least.

    Raises:
        ValueError: for another theta; from `check`, where the noise is infinitely fast at t = 1.
    """

    theta: float = 0.5
    id: ClassVar[str] = "theta_trapezoidal"
    citation: ClassVar[str] = (
        "Ren et al., Fast Solvers for Discrete Diffusion Models, 2025, arXiv:2502.00234"
    )

    def __post_init__(self) -> None:
        check_share(self.theta, below_one=True)

    def check(self, diffusion: Diffusion) -> None:
        """Raise where noise comes infinitely fast at t = 1."""
        check_pace(self.id, diffusion)

    def step(
        self,
        denoiser: Denoiser,
        x_t: Tokens,
        s: Tensor | float,
        t: Tensor | float,
        generator: Generators = None,
        **condition: Any,
    ) -> Tokens:
        """Two calls: at x_t and at x_r."""
        r, diffusion = t - self.theta * (t - s), denoiser.diffusion
        said = look(denoiser, x_t, t, generator, **condition)
        early = expected_jumps(said, diffusion, x_t, r, t)
        x_r = self.hold(categorical(first_jump(early, x_t), generator))
        said = look(denoiser, x_r, r, generator, **condition)
        if not bool(torch.as_tensor(s).any()):
            return categorical(posterior(said, diffusion, x_r, s, r), generator)
        late = expected_jumps(said, diffusion, x_r, s, r)
        # `early` is of a leap of another length, and of the positions that are where they were.
        before = early * (x_r == x_t)[..., None] * ((1 - self.theta) / self.theta)
        a = 1 / (2 * self.theta * (1 - self.theta))
        jumps = (a * late - (a - 1) * before).clamp_min(0)
        return categorical(first_jump(jumps, x_r), generator)
