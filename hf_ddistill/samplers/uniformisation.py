"""Exact steps of the reverse process, by thinning more jumps than it makes.

In the clock sigma of the process, with m = 1 - alpha the share of noise and pi the limit law.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from hf_ddistill.denoisers import Denoiser
from hf_ddistill.denoisers.denoiser import condition_of
from hf_ddistill.diffusion import Diffusion, times
from hf_ddistill.linalg import categorical, generators_of, uniform_noise
from hf_ddistill.parameterizations import Prediction
from hf_ddistill.samplers.holding import Holding
from hf_ddistill.samplers.posterior import draw_clean
from hf_ddistill.samplers.sampler import Sampler, look
from hf_ddistill.shapes import Generators, Probs, Tokens

#: The earliest time that a network is asked at: some read the logarithm of what is there.
EARLIEST = 1e-6


@dataclass(frozen=True)
class Uniformisation(Holding, Sampler):
    """Jumps are proposed at Poisson times of a rate that no conditional exceeds, each asks the
    denoiser once, and one to y is made with probability R(x -> y) / bound.

    Where a token is redrawn from pi at rate 1, the rate out of x at one position is
    sum_{y != x} pi_x sum_a p(a | x_t) P_0t[a, y] / P_0t[a, x], at most (1 - pi_x) + alpha / m,
    which is met where the data are certain of another token (`jump_law`). Under masking it is
    met by every conditional: no proposal is in vain, and a row takes as many calls as it has
    masks. Under uniform noise a row takes a Poisson number of calls, in the mean
    L [(1 - 1 / K) (sigma_1 - sigma_cut) + log(m_1 / m_cut)] (`expected_calls`), and a batch those
    of its slowest row; nothing caps them, and the number of steps has no part in them: steps are
    where the caller is told. The law at each time of the grid is exact, whatever the grid.

    The bound grows like 1 / sigma towards the data. Masks that are left get their turn all the
    same; under uniform noise the last step ends at `cut`, and draws x_0 from p(x_0 | x_cut) of each
    position: wrong only where two or more are noise there, with probability
    at most (L m_cut)^2 / 2.

    Args:
        cut: the time in (0, 1) at which proposals end under noise that is not masking.

    References: Chen, Ying, Convergence Analysis of Discrete Diffusion Model, 2024,
    arXiv:2402.08095.

    Raises:
        ValueError: for another cut; from `check`, for a process of another kind.
    """

    cut: float = 1e-4
    id: ClassVar[str] = "uniformisation"
    citation: ClassVar[str] = (
        "Chen, Ying, Convergence Analysis of Discrete Diffusion Model, 2024, arXiv:2402.08095"
    )

    def __post_init__(self) -> None:
        if not 0 < self.cut < 1:
            raise ValueError(f"cut, the time at which proposals end, is in (0, 1), got {self.cut}.")

    def check(self, diffusion: Diffusion) -> None:
        """Raise unless the process redraws tokens from its limit law at rate 1."""
        if not diffusion.process.redraws:
            raise ValueError(
                "The sampler 'uniformisation' has a bound for processes that redraw a token from "
                f"one law, as Absorbing and Uniform do, not for {type(diffusion.process).__name__}."
            )

    def expected_calls(self, diffusion: Diffusion, length: int) -> float:
        """The mean number of calls for a row of L positions that are all to be generated, but the
        one that draws x_0."""
        if diffusion.reveals:
            return float(length)
        ends = diffusion.total_noise(torch.tensor([self.cut, 1.0], dtype=torch.float64))
        law = diffusion.process.limit()
        shares = torch.log(-torch.expm1(-ends))
        redrawn = (1 - law.square().sum()) * (ends[1] - ends[0])
        return length * float(redrawn + shares[1] - shares[0])

    def step(
        self,
        denoiser: Denoiser,
        x_t: Tokens,
        s: Tensor | float,
        t: Tensor | float,
        generator: Generators = None,
        **condition: Any,
    ) -> Tokens:
        """All jumps between t and s, rows on clocks of their own."""
        diffusion, last = denoiser.diffusion, not bool(torch.as_tensor(s).any())
        rows = torch.arange(len(x_t), device=x_t.device)
        clock = _total_noise(diffusion, t, rows)
        if last and diffusion.reveals:
            end = torch.full_like(clock, -1.0)  # beyond the data: until no mask is left
        else:
            end = torch.minimum(_total_noise(diffusion, self.cut if last else s, rows), clock)
        free = self.hold(torch.full_like(x_t, -1)) < 0
        x, going = x_t, rows
        while len(going):
            open_, redrawn = _open(diffusion, x[going], free[going])
            own = generators_of(generator, going)
            following = _following(open_.sum(1), redrawn.sum(1), clock[going], own)
            weights = redrawn + open_ / torch.expm1(following)[:, None]
            made = following > end[going]
            going, following, weights = going[made], following[made], weights[made]
            clock = clock.index_copy(0, going, following)
            own, given = generators_of(generator, going), condition_of(condition, going, len(x))
            moved = _proposed(denoiser, x[going], weights, following, own, given)
            x = x.index_copy(0, going, moved)
        if not last or diffusion.reveals:
            return x
        said = look(denoiser, x, torch.as_tensor(t).clamp_max(self.cut), generator, **condition)
        return draw_clean(said, x, generator)


def _open(diffusion: Diffusion, x: Tokens, free: Tensor) -> tuple[Tensor, Tensor]:
    """Where x can jump, and 1 - pi_x there: both float64 (B, L)."""
    law = diffusion.process.limit().to(x.device)[x]
    open_ = (law > 0) & free
    return open_.double(), (1 - law) * open_


def _following(open_: Tensor, redrawn: Tensor, clock: Tensor, generator: Generators) -> Tensor:
    """The noise at which the next jump of each row is proposed, below that of its clock: the first
    of a stream of rate sum (1 - pi_x), and one of rate sum alpha / m; -inf where none can be."""
    waits = -torch.log1p(-uniform_noise((len(clock), 2), generator, clock.device))
    waits = waits.clamp_min(1e-300)
    share = -torch.expm1(-clock) * torch.exp(-waits[:, 1] / open_)
    following = torch.maximum(clock - waits[:, 0] / redrawn, -torch.log1p(-share))
    return following.masked_fill(open_ == 0, -torch.inf)


def _proposed(
    denoiser: Denoiser,
    x: Tokens,
    weights: Tensor,
    noise: Tensor,
    generator: Generators,
    condition: dict[str, Any],
) -> Tokens:
    """x with a jump at one of the positions by their weights, or none."""
    if not len(x):
        return x
    diffusion = denoiser.diffusion
    place = categorical(weights, generator)[:, None]
    t = diffusion.schedule.inverse(noise).clamp_min(EARLIEST)
    given = {**denoiser.fresh_noise(x, generator), **condition}
    said = denoiser.at(x, t, torch.zeros_like(x, dtype=torch.bool).scatter(1, place, True), **given)
    law, _ = jump_law(said, diffusion, x.gather(1, place), t)
    return x.scatter(1, place, categorical(law, generator))


def jump_law(
    prediction: Prediction, diffusion: Diffusion, x_t: Tokens, t: Tensor | float
) -> tuple[Probs, Tensor]:
    """Where a proposal at each position goes, (B, L, K), x_t if it is declined; and the rate at
    which it is proposed there, per unit of noise, (B, L).

    With Q the rate of the process the reverse rate is R(x -> y) = Q[y, x] score(y), and

    sum_{y != x} R(x -> y) = - Q[x, x] + sum_a p(a | x_t) (P Q)[a, x] / P[a, x],  P = P_0t,

    whose terms are largest at a != x: alpha / m.
    """
    noise = diffusion.total_noise(times(t).to(x_t.device)).reshape(-1, 1)
    law = diffusion.process.limit().to(x_t.device)[x_t]
    bound = torch.where(law > 0, 1 - law + 1 / torch.expm1(noise), 0.0)
    rate = diffusion.process.rate().columns(x_t) * prediction.score(diffusion, x_t, t).double()
    jumps = rate.scatter(-1, x_t[..., None], 0.0) / bound.clamp_min(1e-300)[..., None]
    stay = (1 - jumps.sum(-1, keepdim=True)).clamp_min(0)
    return jumps.scatter(-1, x_t[..., None], stay), bound


def _total_noise(diffusion: Diffusion, t: Tensor | float, rows: Tensor) -> Tensor:
    """That at t, for each of some rows."""
    return diffusion.total_noise(times(t).to(rows.device)).expand(len(rows))
