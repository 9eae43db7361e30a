"""Two calls a step: at its start, and behind a trial leap on the way.

R is the reverse rate, r = t - theta (t - s) the time of the second call, at x_r.
"""

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
from hf_ddistill.shapes import Generators, Probs, Tokens


class _TwoCalls(Holding):
    """Mixed into a `Sampler`, before it: what both share."""

    id: ClassVar[str]
    citation: ClassVar[str] = (
        "Ren et al., Fast Solvers for Discrete Diffusion Models, 2025, arXiv:2502.00234"
    )

    def check(self, diffusion: Diffusion) -> None:
        """Raise where noise comes infinitely fast at t = 1."""
        check_pace(self.id, diffusion)

    def leap(self, jumps: Probs, x: Tokens, generator: Generators) -> Tokens:
        """Where `x` is after the first of these expected jumps, with what is given held."""
        return self.hold(categorical(first_jump(jumps, x), generator))


@dataclass(frozen=True)
class ThetaRK2(_TwoCalls, Sampler):
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

    def __post_init__(self) -> None:
        check_share(self.theta, below_one=False)

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
        x_r = self.leap(self.theta * early, x_t, generator)
        said = look(denoiser, x_r, r, generator, **condition)
        late = diffusion.reverse_rate(said.score(diffusion, x_r, r), x_r, r)
        width = torch.as_tensor(t - s, dtype=late.dtype, device=late.device).reshape(-1, 1, 1)
        late = torch.where((x_r == x_t)[..., None], late * width, early)
        b = 1 / (2 * self.theta)
        jumps = ((1 - b) * early + b * late).clamp_min(0).scatter(-1, x_t[..., None], 0.0)
        return categorical(first_jump(jumps, x_t), generator)


@dataclass(frozen=True)
class ThetaTrapezoidal(_TwoCalls, Sampler):
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

    def __post_init__(self) -> None:
        check_share(self.theta, below_one=True)

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
        x_r = self.leap(early, x_t, generator)
        said = look(denoiser, x_r, r, generator, **condition)
        if not bool(torch.as_tensor(s).any()):
            return categorical(posterior(said, diffusion, x_r, s, r), generator)
        late = expected_jumps(said, diffusion, x_r, s, r)
        # `early` is of a leap of another length, and of the positions that are where they were.
        before = early * (x_r == x_t)[..., None] * ((1 - self.theta) / self.theta)
        a = 1 / (2 * self.theta * (1 - self.theta))
        jumps = (a * late - (a - 1) * before).clamp_min(0)
        return categorical(first_jump(jumps, x_r), generator)
