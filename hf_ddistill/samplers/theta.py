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
from hf_ddistill.parameterizations import Prediction
from hf_ddistill.samplers.holding import Holding
from hf_ddistill.samplers.in_pieces import draw_in_pieces
from hf_ddistill.samplers.jumps import check_pace, check_share, expected_jumps, first_jump
from hf_ddistill.samplers.posterior import posterior
from hf_ddistill.samplers.sampler import Sampler, look
from hf_ddistill.shapes import Generators, Tokens


class _TwoCalls(Holding):
    """Mixed into a `Sampler`, before it: what both share."""

    id: ClassVar[str]
    citation: ClassVar[str] = (
        "Ren et al., Fast Solvers for Discrete Diffusion Models, 2025, arXiv:2502.00234"
    )

    def check(self, diffusion: Diffusion) -> None:
        """Raise where noise comes infinitely fast at t = 1."""
        check_pace(self.id, diffusion)

    def leap(
        self,
        said: Prediction,
        diffusion: Diffusion,
        x: Tokens,
        way: tuple[Tensor | float, Tensor | float, float],
        generator: Generators,
    ) -> Tokens:
        """Where `x` is after the first jump, if any, of a share of a step, with what is given held;
        the way is (s, t, share)."""
        share = way[2]

        def law(said, tokens, s, t):  # noqa: ANN001, ANN202
            jumps = share * expected_jumps(*said, diffusion, *tokens, s, t)
            return first_jump(jumps, *tokens)

        return self.hold(draw_in_pieces(law, (said,), (x,), diffusion, way[:2], generator))

    def last(
        self,
        said: Prediction,
        diffusion: Diffusion,
        x: Tokens,
        way: tuple[Tensor | float, Tensor | float],
        generator: Generators,
    ) -> Tokens:
        """x_0 from what is said at x."""

        def law(said, tokens, s, t):  # noqa: ANN001, ANN202
            return posterior(*said, diffusion, *tokens, s, t)

        return draw_in_pieces(law, (said,), (x,), diffusion, way, generator)


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
            return self.last(said, diffusion, x_t, (s, t), generator)
        x_r = self.leap(said, diffusion, x_t, (s, t, self.theta), generator)
        both = (said, look(denoiser, x_r, r, generator, **condition))
        b = 1 / (2 * self.theta)

        def law(said, tokens, s, t):  # noqa: ANN001, ANN202
            (first, second), (x_t, x_r), r = said, tokens, t - self.theta * (t - s)
            early = expected_jumps(first, diffusion, x_t, s, t)
            late = diffusion.reverse_rate(second.score(diffusion, x_r, r), x_r, r)
            width = (t - s).to(late).reshape(-1, 1, 1)
            late = torch.where((x_r == x_t)[..., None], late * width, early)
            jumps = ((1 - b) * early + b * late).clamp_min(0).scatter(-1, x_t[..., None], 0.0)
            return first_jump(jumps, x_t)

        return draw_in_pieces(law, both, (x_t, x_r), diffusion, (s, t), generator)


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
        x_r = self.leap(said, diffusion, x_t, (r, t, 1.0), generator)
        both = (said, look(denoiser, x_r, r, generator, **condition))
        if not bool(torch.as_tensor(s).any()):
            return self.last(both[1], diffusion, x_r, (s, r), generator)
        a = 1 / (2 * self.theta * (1 - self.theta))

        def law(said, tokens, s, t):  # noqa: ANN001, ANN202
            (first, second), (x_t, x_r), r = said, tokens, t - self.theta * (t - s)
            early = expected_jumps(first, diffusion, x_t, r, t)
            late = expected_jumps(second, diffusion, x_r, s, r)
            # `early` is of a leap of another length, and of positions that are where they were.
            before = early * (x_r == x_t)[..., None] * ((1 - self.theta) / self.theta)
            return first_jump((a * late - (a - 1) * before).clamp_min(0), x_r)

        return draw_in_pieces(law, both, (x_t, x_r), diffusion, (s, t), generator)
