"""The exact step of a product posterior, which several samplers share."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_ddistill.diffusion import Diffusion
from hf_ddistill.parameterizations import Prediction
from hf_ddistill.samplers.interval import interval
from hf_ddistill.shapes import Probs, Tokens


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
