"""Two calls a step: a trial leap, and a whole one by rates of both ends."""

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
class ThetaRK2(Holding, Sampler):
    """A trial leap to r = t - theta (t - s), and from x_t to s by a mean of both rates
    (Algorithm 1).

    x_s by (t - s) max((1 - b) R(x_t) + b R(x_r), 0),  b = 1 / (2 theta)

    The whole leap goes from x_t again: what jumped in the trial is forgotten, and with it why the
    rates elsewhere have changed. Second order in the law of each position alone; the law of a
    sequence is met to first order only, with two calls a step (measured:
    docs/results/samplers.md). Where a position jumped in the trial, the rate of x_t stands for
    both. The last step draws x_0 from the conditional at x_t, with one call.

    Args:
        theta: the share of a step that the trial goes, in (0, 1]: 1/2 is the midpoint rule, 1
            Heun's.

    Raises:
        ValueError: for another theta; from `check`, where the noise is infinitely fast at t = 1.
    """

    theta: float = 0.5
    id: ClassVar[str] = "theta_rk2"
    citation: ClassVar[str] = (
        "Ren et al., Fast Solvers for Discrete Diffusion Models, 2025, arXiv:2502.00234"
    )

    def __post_init__(self) -> None:
        check_share(self.theta, below_one=False)

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
        """Two calls, at x_t and at x_r; the last step makes the first alone."""
        r, diffusion = t - self.theta * (t - s), denoiser.diffusion
        said = look(denoiser, x_t, t, generator, **condition)
        if not bool(torch.as_tensor(s).any()):
            return categorical(posterior(said, diffusion, x_t, s, t), generator)
        early = expected_jumps(said, diffusion, x_t, s, t)
        x_r = self.hold(categorical(first_jump(self.theta * early, x_t), generator))
        said = look(denoiser, x_r, r, generator, **condition)
        late = diffusion.reverse_rate(said.score(diffusion, x_r, r), x_r, r)
        width = torch.as_tensor(t - s, dtype=late.dtype, device=late.device).reshape(-1, 1, 1)
        late = torch.where((x_r == x_t)[..., None], late * width, early)
        b = 1 / (2 * self.theta)
        jumps = ((1 - b) * early + b * late).clamp_min(0).scatter(-1, x_t[..., None], 0.0)
        return categorical(first_jump(jumps, x_t), generator)
