"""The golden numbers, and how the networks behind some of them are to be read."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from hf_ddistill.parameterizations import Prediction

DATA = Path(__file__).parent / "data" / "golden"


def golden(name):
    """The arrays of one file; floating point in float64."""
    arrays = load_file(DATA / f"{name}.safetensors")
    return {key: a.double() if a.is_floating_point() else a for key, a in arrays.items()}


def plugged_in(log_p, diffusion, x_t, t):
    """The prediction of a network whose distribution takes the place of x_0 in q(x_s | x_t, x_0).

    That is how UDLM, Duo and GIDD use theirs. The formula is then exact if the network gives
    p(x_0^i | x_t without position i), so p(x_0 | x_t) is that times P_0t[x_0, x_t], normalised.
    Under Absorbing the two are the same at a mask.
    """
    column = diffusion.kernel(torch.zeros_like(t), t).columns(x_t)
    tiny = torch.finfo(column.dtype).tiny
    return Prediction((log_p + column.clamp_min(tiny).log()).log_softmax(-1))
