"""Rules for one step back in time: p(x_s | x_t) for each position, (B, L, K), from what a denoiser
predicts.

All take (prediction, diffusion, x_t, s, t) and give distributions. `ancestral` and `analytic` are
exact for a product posterior and the same; `euler` and `tau_leaping` are first order in t - s.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from hf_ddistill.denoisers import Denoiser
from hf_ddistill.diffusion import Diffusion, times
from hf_ddistill.linalg import categorical
from hf_ddistill.parameterizations import Prediction
from hf_ddistill.shapes import Generators, Probs, Tokens

StepRule: TypeAlias = Callable[[Prediction, Diffusion, Tokens, Any, Any], Probs]


def ancestral(
    prediction: Prediction, diffusion: Diffusion, x_t: Tokens, s: Tensor | float, t: Tensor | float
) -> Probs:
    """sum_{x_0} q(x_s | x_t, x_0) p(x_0 | x_t): P_st.columns(x_t) * P_0s.vecmat(p(x_0 | x_t) /
    P_0t[x_0, x_t]).

    References: Austin et al., 2021, arXiv:2107.03006, Eq. 4.
    """
    s, t = _interval(s, t, x_t)
    dtype = prediction.log_conditional.dtype
    weights = prediction.weights(diffusion.kernel(torch.zeros_like(t), t).columns(x_t, dtype))
    past = diffusion.kernel(torch.zeros_like(s), s).vecmat(weights)
    # What a kernel of cancelling modes rounds to below 0 is no probability.
    return _normalised((diffusion.kernel(s, t).columns(x_t, dtype) * past).clamp_min(0))


def analytic(
    prediction: Prediction, diffusion: Diffusion, x_t: Tokens, s: Tensor | float, t: Tensor | float
) -> Probs:
    """Tweedie tau-leaping on the score: (P_st^-1 score) * P_st[., x_t] (SEDD, arXiv:2310.16834,
    Theorem 4.2).

    The score of a prediction is w P_0t with w = p(x_0 | x_t) / P_0t[x_0, x_t], and P_0t is P_0s
    P_st: so P_st^-1 score is w P_0s, with no kernel inverted (many cannot be, near t = 1), and the
    step is the ancestral one.
    """
    return ancestral(prediction, diffusion, x_t, s, t)


def euler(
    prediction: Prediction, diffusion: Diffusion, x_t: Tokens, s: Tensor | float, t: Tensor | float
) -> Probs:
    """One Euler step I + (t - s) R of the reverse rate R; what leaves x_t is cut at 1 (ECD,
    arXiv:2512.12889, Eq. 11)."""
    s, t = _interval(s, t, x_t)
    step = diffusion.reverse_rate(prediction.score(diffusion, x_t, t), x_t, t)
    step = (step * _rows((t - s), step)).scatter(-1, x_t[..., None], 0.0)
    leaving = step.sum(-1, keepdim=True)
    return (step / leaving.clamp_min(1)).scatter(-1, x_t[..., None], (1 - leaving).clamp_min(0))


def tau_leaping(
    prediction: Prediction, diffusion: Diffusion, x_t: Tokens, s: Tensor | float, t: Tensor | float
) -> Probs:
    """Poisson numbers of jumps at the rates of the start, a single jump accepted and more than one
    refused.

    Token y gets P(one jump to y, none elsewhere) = r_y e^-r with r = sum_y r_y, and x_t the rest:
    tau-leaping for categorical data (Campbell et al., 2022, arXiv:2205.14987, Section 4.3).
    """
    s, t = _interval(s, t, x_t)
    step = diffusion.reverse_rate(prediction.score(diffusion, x_t, t), x_t, t)
    step = (step * _rows((t - s), step)).scatter(-1, x_t[..., None], 0.0)
    jump = step * torch.exp(-step.sum(-1, keepdim=True))
    return jump.scatter(-1, x_t[..., None], 1 - jump.sum(-1, keepdim=True))


def jump(
    prediction: Prediction, diffusion: Diffusion, x_t: Tokens, s: Tensor | float, t: Tensor | float
) -> Probs:
    """sum_{x_0} p(x_0 | x_t) P_0s[x_0, x_s]: a whole clean sequence is drawn and noised again.

    What x_t has already revealed is kept no longer than anything else, so that a later call can
    mend an earlier one; positions share nothing of x_t but what the prediction has read in it.

    References: Song et al., Consistency Models, 2023, arXiv:2303.01469, Algorithm 1; with masks,
    Zhu et al., Di[M]O, 2025, arXiv:2503.15457.
    """
    s, _ = _interval(s, t, x_t)
    kernel = diffusion.kernel(torch.zeros_like(s), s)
    return kernel.vecmat(prediction.log_conditional.exp()).clamp_min(0)


def check_rule(rule: StepRule, diffusion: Diffusion) -> None:
    """Raise a ValueError if the rule cannot take a step from t = 1 under this diffusion.

    These are `euler` and `tau_leaping` where noise comes infinitely fast there.
    """
    pace = float(diffusion.schedule.rate(torch.ones((), dtype=torch.float64)).detach())
    if rule in (euler, tau_leaping) and not math.isfinite(pace):
        raise ValueError(
            f"{rule.__name__!r} steps take the rate of the noise, which is infinite at t = 1 under "
            f"{diffusion.schedule!r}; 'ancestral' and 'jump' steps take none."
        )


def step_grid(num_steps: int) -> list[float]:
    """The times 1, 1 - 1/n, ..., 1/n, 0 that n network calls step through."""
    if num_steps < 1:
        raise ValueError(f"The number of steps must be at least 1, got {num_steps}.")
    return [1 - i / num_steps for i in range(num_steps)] + [0.0]


@torch.no_grad()
def sample(
    denoiser: Denoiser,
    shape: Sequence[int],
    num_steps: int,
    rule: StepRule = ancestral,
    *,
    generator: Generators = None,
    device: torch.device | str | None = None,
    **condition: Any,
) -> Tokens:
    """Draw x_0 of shape (B, L) in `num_steps` network calls; the last one always draws x_0
    itself. A network with a noise input gets fresh noise at each call."""
    grid = step_grid(num_steps)
    check_rule(rule, denoiser.diffusion)
    x = denoiser.diffusion.prior(shape, generator, device)
    for t, s in zip(grid[:-1], grid[1:], strict=True):
        step = rule if s > 0 else ancestral
        given = {**condition, **denoiser.fresh_noise(x, generator)}
        x = categorical(step(denoiser(x, t, **given), denoiser.diffusion, x, s, t), generator)
    return x


def _interval(s: Tensor | float, t: Tensor | float, x_t: Tensor) -> tuple[Tensor, Tensor]:
    s, t = torch.broadcast_tensors(times(s).to(x_t.device), times(t).to(x_t.device))
    if bool((s >= t).any()):
        first = (s >= t).flatten().nonzero()[0, 0]
        raise ValueError(
            f"s={float(s.flatten()[first]):.4g} must precede t={float(t.flatten()[first]):.4g}."
        )
    return s, t


def _rows(h: Tensor, like: Tensor) -> Tensor:
    h = h.to(like.dtype)
    return h[:, None, None] if h.ndim else h


def _normalised(p: Tensor) -> Tensor:
    return p / p.sum(-1, keepdim=True)
