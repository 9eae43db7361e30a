"""The exact step of a product posterior, which several samplers share."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_ddistill.diffusion import Diffusion
from hf_ddistill.linalg import (
    LinearOperator,
    categorical,
    categorical_of_logs,
    columns_of_batch,
    uniform_noise,
)
from hf_ddistill.parameterizations import Prediction, log_prob_of
from hf_ddistill.samplers.interval import interval, to_data
from hf_ddistill.shapes import Chooser, Generators, PerToken, Probs, Tokens


def posterior(
    prediction: Prediction, diffusion: Diffusion, x_t: Tokens, s: Tensor | float, t: Tensor | float
) -> Probs:
    """sum_{x_0} q(x_s | x_t, x_0) p(x_0 | x_t): P_st.columns(x_t) * P_0s.vecmat(p(x_0 | x_t) /
    P_0t[x_0, x_t]).

    References: Austin et al., 2021, arXiv:2107.03006, Eq. 4.
    """
    s, t = interval(s, t, x_t)
    dtype = prediction.log_conditional.dtype
    weights = prediction.weights(diffusion.kernel(torch.zeros_like(t), t).columns(x_t, dtype))
    past = diffusion.kernel(torch.zeros_like(s), s).vecmat(weights)
    # What a kernel of cancelling modes rounds to below 0 is no probability.
    probs = (diffusion.kernel(s, t).columns(x_t, dtype) * past).clamp_min(0)
    return probs / probs.sum(-1, keepdim=True)


def draw_posterior(
    prediction: Prediction,
    diffusion: Diffusion,
    x_t: Tokens,
    s: Tensor | float,
    t: Tensor | float,
    generator: Generators = None,
) -> Tokens:
    """x_s from `posterior`, which is not made: x_0 from p(x_0 | x_t), then x_s between x_0 and x_t.

    After the draw of x_0 most processes need no (B, L, K): see `LinearOperator.bridge`.
    """
    if isinstance(generator, Chooser):  # fewer branches: what x_0 was is not asked
        return categorical(posterior(prediction, diffusion, x_t, s, t), generator)
    # Of rows with times of their own, on a device, nobody is asked.
    last = not (isinstance(s, Tensor) and s.device.type != "cpu") and to_data(s)
    s, t = interval(s, t, x_t)
    zero = torch.zeros_like(s)
    x_0 = _draw_clean(prediction, diffusion, x_t, diffusion.kernel(zero, t), generator)
    if last:
        return x_0
    return diffusion.kernel(zero, s).bridge(diffusion.kernel(s, t), x_0, x_t, generator)


def posterior_at(
    prediction: Prediction,
    diffusion: Diffusion,
    x_t: Tokens,
    x_s: Tokens,
    s: Tensor | float,
    t: Tensor | float,
) -> PerToken:
    """The probabilities (B, L) that `posterior` gives to tokens x_s, where it can be without it.

    With P_st[x, y] = a 1[x = y] + v_st(y) and w = p(x_0 | x_t) / P_0t[x_0, x_t]:
    P_st[x_s, x_t] (a_0s w(x_s) + v_0s(x_s) sum w), and sum w is known from p(x_t | x_t).
    """
    if not diffusion.process.is_flat:
        return log_prob_of(posterior(prediction, diffusion, x_t, s, t), x_s)
    s, t = interval(s, t, x_t)
    zero, size = torch.zeros_like(s), diffusion.vocab_size
    first, whole = diffusion.kernel(zero, s), diffusion.kernel(zero, t)
    here, there = (prediction.log_prob_of(x).double().exp() for x in (x_t, x_s))
    away = whole.entries((x_t + 1) % size, x_t)  # from any other token
    weights = here / whole.entries(x_t, x_t) + torch.where(away > 0, (1 - here) / away, 0.0)
    reached = whole.entries(x_s, x_t)
    fresh = first.entries((x_s + 1) % size, x_s)
    kept = first.entries(x_s, x_s) - fresh
    past = fresh * weights + torch.where(reached > 0, kept * there / reached, 0.0)
    return diffusion.kernel(s, t).entries(x_s, x_t) * past / torch.where(away > 0, 1.0, here)


def draw_clean(prediction: Prediction, x_t: Tokens, generator: Generators = None) -> Tokens:
    """x_0 ~ p(x_0 | x_t), a few positions at a time."""
    if isinstance(generator, Chooser):
        return categorical_of_logs(prediction.log_conditional, generator)
    noise = uniform_noise(x_t.shape, generator, x_t.device)
    (x_0,) = prediction.each(lambda log_p, u: (categorical_of_logs(log_p, noise=u),), noise)
    return x_0


def _draw_clean(
    prediction: Prediction,
    diffusion: Diffusion,
    x_t: Tokens,
    kernel: LinearOperator,
    generator: Generators,
) -> Tokens:
    """x_0 from what is said of those that can have become x_t."""
    if diffusion.process.is_flat:
        x_0 = draw_clean(prediction, x_t, generator)
        # What cannot have become x_t shares that with all tokens but x_t.
        return torch.where(kernel.entries(x_0, x_t) > 0, x_0, x_t)
    said = prediction.log_conditional

    def law(part: slice) -> Tensor:
        reached = kernel.columns(x_t[:, part], said.dtype) > 0
        return said[:, part].masked_fill(~reached, -torch.inf)

    if isinstance(generator, Chooser):
        return categorical_of_logs(law(slice(None)), generator)
    noise = uniform_noise(x_t.shape, generator, x_t.device)
    parts = columns_of_batch(x_t, said.shape[-1])
    return torch.cat([categorical_of_logs(law(part), noise=noise[:, part]) for part in parts], 1)
