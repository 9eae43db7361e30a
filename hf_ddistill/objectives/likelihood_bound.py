"""The integrand of the likelihood bound in continuous time, for any process.

With the score s(y) of the prediction and the true one given x_0, r(y) = P_0t[x_0, y] / P_0t[x_0,
x_t]:
    -log p(x_0) <= E_t sigma'(t) sum_{y != x_t} Q[y, x_t] (s(y) - r(y) log s(y) + r(y) (log r(y) -
    1))
It is `score_entropy`. Where the process allows, the sum over y is done once and for all.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from hf_ddistill.diffusion import Diffusion
from hf_ddistill.objectives.by_position import by_position
from hf_ddistill.parameterizations import Prediction
from hf_ddistill.shapes import PerToken, Probs, Times, Tokens


def nelbo_density(
    prediction: Prediction, diffusion: Diffusion, x_0: Tokens, x_t: Tokens, t: Times
) -> PerToken:
    """The integrand of the bound at t for each token, (B, L), in nats.

    It is MDLM's weighted cross entropy under Absorbing, UDLM's and Duo's bound under Uniform, and
    SEDD's score entropy (times sigma') for a score network.

    References: Campbell et al., 2022, arXiv:2205.14987, Proposition 2; Lou et al., 2024,
    arXiv:2310.16834, Theorem 3.6; Sahoo et al., 2024, arXiv:2406.07524, Eq. 10.

    Args:
        prediction: of x_0 at x_t, (B, L, K), normalised.
        x_0: clean tokens, (B, L).
        x_t: noised tokens, (B, L).
        t: (B,), above 0.
    """
    if diffusion.reveals:
        return _of_masks(prediction, diffusion, x_0, x_t, t)
    if diffusion.process.is_flat:
        return _of_flat_noise(prediction, diffusion, x_0, x_t, t)
    return score_entropy(prediction.score(diffusion, x_t, t), diffusion, x_0, x_t, t)


def score_entropy(
    score: Probs, diffusion: Diffusion, x_0: Tokens, x_t: Tokens, t: Times
) -> PerToken:
    """The integrand from ratios p_t(y) / p_t(x_t) (B, L, K), of a law or not: 66 to 68 passes over
    them, where the closed forms of `nelbo_density` take a few."""
    dtype = score.dtype
    sigma = diffusion.schedule.sigma(t)
    true = diffusion.kernel(torch.zeros_like(t), t).rows(x_0, dtype)
    true = true / true.gather(-1, x_t[..., None])
    rates = diffusion.process.rate(sigma).columns(x_t, dtype).scatter(-1, x_t[..., None], 0.0)
    tiny = torch.finfo(dtype).tiny
    # r log r and r log s are 0 where r is 0.
    log_ratio = (true.clamp_min(tiny).log() - score.clamp_min(tiny).log()) * true
    term = score - true + torch.where(true > 0, log_ratio, torch.zeros_like(true))
    return (rates * term).sum(-1) * diffusion.schedule.rate(t).to(dtype)[:, None]


def _of_masks(
    prediction: Prediction, diffusion: Diffusion, x_0: Tokens, x_t: Tokens, t: Times
) -> PerToken:
    """-log p(x_0) sigma' / (e^sigma - 1) at masks, where s sums to what r is at x_0; else 0."""
    schedule, log_p = diffusion.schedule, prediction.log_prob_of(x_0)
    weight = (schedule.rate(t) / torch.expm1(schedule.sigma(t))).to(log_p.dtype)
    return torch.where(diffusion.undetermined(x_t), -log_p * weight[:, None], 0.0)


def _of_flat_noise(
    prediction: Prediction, diffusion: Diffusion, x_0: Tokens, x_t: Tokens, t: Times
) -> PerToken:
    """With P_0t[x, y] = a 1[x = y] + v(y), D = P_0t[x_0, x_t], p_t = p(x_t), z = 1 - p_t a / (a +
    v_t):  s(y) = (a p(y) + v(y) z) / v_t at y != x_t, and r(y) = v(y) / D but at x_0. So

        sum s - r  =  z / v_t - 1 / D
        sum r log r - r log s  =  -sum v(y) / D (log(z D / v_t) + log(1 + a p(y) / (v z)))

    over y != x_t, and what x_0 adds to it. Only the last logarithm looks at all tokens.
    """
    log_p, schedule = prediction.log_conditional, diffusion.schedule
    kernel = diffusion.kernel(torch.zeros_like(t), t)
    same, now = x_0 == x_t, kernel.entries(x_0, x_t)
    # What comes afresh: at any token of the data, and at x_t.
    v = kernel.entries(_another(x_0, diffusion), x_0)
    v_t = torch.where(same, v, now)
    rate = diffusion.process.rate(schedule.sigma(t)).entries(_another(x_t, diffusion), x_t)
    rate = rate * schedule.rate(t)[:, None]
    a = kernel.scalar[:, None].expand_as(v)
    each = [values.flatten() for values in (x_0, x_t, a, v, v_t, now, same, rate)]

    def density(some: slice, log_p: Tensor) -> Tensor:
        x_0, x_t, a, v, v_t, now, same, rate = (values[some] for values in each)
        log_p_0, log_p_t = log_p.gather(-1, torch.stack([x_0, x_t], -1)).double().unbind(-1)
        z = (v_t - a * torch.expm1(log_p_t)) / (a + v_t)
        scale = a.log() - v.log() - z.log()
        # A softplus is log(1 + e^x); beyond 40 it is x, to the last digit of float64.
        logs = softplus(log_p + scale.to(log_p.dtype)[:, None], threshold=40).sum(-1).double()
        logs = (1 - a - v_t) * (z * now / v_t).log() + v * (logs - softplus(log_p_t + scale, 1, 40))
        total = z / v_t - 1 / now - logs / now
        # Of x_0, r(x_0) = (a + v) / D where v / D was summed.
        s_0 = a * log_p_0.exp() + v * z
        at_x_0 = (a + v) * ((a + v) / s_0).log() - v * (v / s_0).log()
        return (total + torch.where(same, 0.0, at_x_0 / now)) * rate

    return by_position(density, log_p).view_as(v).to(log_p.dtype)


def _another(x: Tokens, diffusion: Diffusion) -> Tokens:
    """A token of the data that is not x, whatever x is."""
    noise = diffusion.process.noise_tokens
    first, second = [k for k in range(len(noise) + 2) if k not in noise][:2]
    return torch.where(x == first, second, first)
