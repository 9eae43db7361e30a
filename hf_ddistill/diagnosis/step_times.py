"""At which times a sampler of few steps loses the least, for a denoiser and data.

A step from t to s draws positions independently given x_t; the reverse process would let each know
what the others have become since. With R_u(x_u) the rate at u in between and R_u|t(x_u) the rate
of positions that still know x_t alone, the loss is a divergence of paths,

C(t, s) = int_s^t E sum_i sum_y [R log(R / R_t) - R + R_t] du,    KL(p_0 || samples) <= sum C + KL
of the noise that it starts from,

with R = R_u(x_u -> y at i) and R_t the other. Under masking C(t, s) is the total correlation of
what the step reveals.

References: Park et al., Jump Your Steps, 2024, arXiv:2410.07761.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hf_ddistill.denoisers import Denoiser
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.linalg import uniform_noise
from hf_ddistill.parameterizations import Prediction
from hf_ddistill.shapes import LOG_ZERO, Tokens, Where
from hf_ddistill.unmasking import largest

#: Of how many numbers (positions, K) a prediction is kept, of each time.
KEPT = 2**20


#: Of the grid that times are chosen from; 4, 8, 12 and 16 even steps are on it.
INTERVALS = 48


@dataclass(frozen=True)
class StepCosts:
    """What each step between times of a fine grid loses, in nats a sequence.

    Args:
        times: (G + 1,), from 1 down to 0.
        costs: (G + 1, G + 1), C from times[i] to times[j] for i < j.
    """

    times: tuple[float, ...]
    costs: Tensor

    def of(self, grid: Sequence[float]) -> float:
        """The bound of a grid whose times are among these."""
        places = [self.times.index(time) for time in grid]
        return sum(float(self.costs[i, j]) for i, j in itertools.pairwise(places))

    def best_times(self, n: int) -> list[float]:
        """The n steps that lose the least in all: the shortest way of n edges from 1 to 0.

        Raises:
            ValueError: for no step, or more than there are times.
        """
        last = len(self.times) - 1
        if not 1 <= n <= last:
            raise ValueError(f"{last} intervals hold 1 to {last} steps, got {n}.")
        forward = torch.ones_like(self.costs, dtype=torch.bool).triu(1)
        edges = self.costs.masked_fill(~forward, torch.inf)
        reached, ways = edges[0], []
        for _ in range(n - 1):
            reached, origin = (reached[:, None] + edges).min(0)
            ways.append(origin)
        place, places = last, [last]
        for origin in reversed(ways):
            place = int(origin[place])
            places.append(place)
        return [self.times[place] for place in (0, *reversed(places))]


@torch.no_grad()
def step_costs(
    denoiser: Denoiser,
    x_0: Tokens,
    intervals: int = INTERVALS,
    generator: torch.Generator | None = None,
    **condition: Any,
) -> StepCosts:
    """Estimate them along one noised path of each row, by 2 G calls of the denoiser.

    Args:
        denoiser: whose rates count as true.
        x_0: (B, L), data or its own samples.
        intervals: G, of a grid that is finer towards the data, where most is decided: the times at
            which equal shares of noise, 1 - alpha, are left.
        generator: of the noise, and of the positions that are looked at.
        **condition: inputs of the denoiser.

    Raises:
        ValueError: for fewer than one interval.
    """
    if intervals < 1:
        raise ValueError(f"There is at least one interval, got {intervals}.")
    diffusion, length = denoiser.diffusion, x_0.shape[1]
    times = _even_shares(diffusion, intervals)
    middles = [(t + s) / 2 for t, s in itertools.pairwise(times)]
    where = _some(x_0, max(1, KEPT // diffusion.vocab_size), generator)
    seen, x, now = {}, x_0, 0.0
    for time in sorted([*times[:-1], *middles]):
        x = diffusion.renoise(x, now, time, generator)
        given = {**denoiser.fresh_noise(x, generator), **condition}
        said = denoiser.at(x, time, where, **given)
        seen[time], now = (Prediction(said.log_conditional.double()), x[where][:, None]), time
    costs = torch.zeros(intervals + 1, intervals + 1, dtype=torch.float64)
    for k, u in enumerate(middles):
        width = times[k] - times[k + 1]
        for i in range(k + 1):
            lost = _divergence(diffusion, (u, *seen[u]), (times[i], *seen[times[i]]))
            costs[i, k + 1 :] += width * float(lost) * length
    return StepCosts(tuple(times), costs)


def time_rows(
    denoiser: Denoiser, x_0: Tokens, steps: Sequence[int], generator: torch.Generator | None = None
) -> list[dict[str, Any]]:
    """The best times for numbers of steps, a row each; "even" is what steps that take out equal
    shares of noise lose, None where they are not among the times that were tried."""
    costs = step_costs(denoiser, x_0, INTERVALS, generator)
    rows = []
    for n in steps:
        best = costs.best_times(n)
        even = costs.of(costs.times[:: INTERVALS // n]) if INTERVALS % n == 0 else None
        row = {"section": "times", "steps": n, "lost": costs.of(best), "even": even}
        rows.append(row | {"times": " ".join(f"{time:.6g}" for time in best)})
    return rows


def _divergence(
    diffusion: Diffusion,
    near: tuple[float, Prediction, Tokens],
    far: tuple[float, Prediction, Tokens],
) -> Tensor:
    """The mean over positions of sum_y [R log(R / R_t) - R + R_t] at u."""
    (u, at_u, x_u), (t, at_t, x_t) = near, far
    dtype = at_u.log_conditional.dtype
    weights = at_t.weights(diffusion.kernel(0.0, t).columns(x_t, dtype))
    known = weights * diffusion.kernel(0.0, u).columns(x_u, dtype)
    total = known.sum(-1, keepdim=True)
    known = torch.where(total > 0, known / total, at_u.log_conditional.exp())
    only_t = Prediction(known.log().clamp_min(LOG_ZERO))
    rate, other = (
        diffusion.reverse_rate(each.score(diffusion, x_u, u), x_u, u)
        .scatter(-1, x_u[..., None], 0.0)
        .clamp_min(0)
        for each in (at_u, only_t)
    )
    logs = torch.xlogy(rate, rate) - torch.xlogy(rate, other.clamp_min(1e-30))
    return (logs - rate + other).sum(-1).clamp_min(0).mean()  # below 0 by rounding alone


def _even_shares(diffusion: Diffusion, intervals: int) -> list[float]:
    """Times from 1 to 0 between which the share of noise falls by equal parts."""
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    most = -torch.expm1(-diffusion.total_noise(ends))[1]
    shares = most * torch.arange(intervals - 1, 0, -1, dtype=torch.float64) / intervals
    return [1.0, *diffusion.schedule.inverse(-torch.log1p(-shares)).tolist(), 0.0]


def _some(x_0: Tokens, most: int, generator: torch.Generator | None) -> Where:
    """At most `most` positions of all rows, any as likely as another."""
    every = torch.ones(1, x_0.numel(), dtype=torch.bool, device=x_0.device)
    if every.numel() > most:
        every = largest(uniform_noise(every.shape, generator, x_0.device), every, most)
    return every.view(x_0.shape)
