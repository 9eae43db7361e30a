"""The likelihood bounds of the published code, by the one formula of `nelbo_density`."""

from __future__ import annotations

import pytest
import torch
from golden import golden

from hf_ddistill.diffusion import Diffusion
from hf_ddistill.objectives.likelihood_bound import nelbo_density, score_entropy
from hf_ddistill.parameterizations import GivenOthers, Prediction
from hf_ddistill.processes import Absorbing, Hybrid, Uniform
from hf_ddistill.schedules import LogLinear

ABSORBING = Diffusion(Absorbing(51), LogLinear(1e-3))
UNIFORM = Diffusion(Uniform(50), LogLinear(1e-3))


@pytest.mark.parametrize("name", ["mdlm_subs", "duo_mdlm"])
def test_bound_is_the_weighted_cross_entropy_of_mdlm(name):
    g = golden(name)
    density = nelbo_density(Prediction(g["log_p_x0"]), ABSORBING, g["x0"], g["x_t"], g["t"])
    torch.testing.assert_close(density, g["nll_per_token"], rtol=1e-5, atol=1e-5)


def test_bound_is_the_score_entropy_of_sedd():
    g = golden("sedd_absorb")
    # A score network's ratios as they are: SEDD's loss does not ask that they belong to a law.
    density = score_entropy(g["log_score"].exp(), ABSORBING, g["x0"], g["x_t"], g["t"])
    expected = g["dsigma"][:, None] * g["score_entropy"]
    torch.testing.assert_close(density, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(density.sum(-1), g["loss_per_sequence"], rtol=1e-5, atol=1e-5)


def test_bound_is_that_of_duo_for_uniform_noise():
    g = golden("duo_uniform_loglinear")
    log_p = GivenOthers().to_log_conditional(g["raw_logits"], UNIFORM, g["x_t"], g["t"])
    density = nelbo_density(Prediction(log_p), UNIFORM, g["x0"], g["x_t"], g["t"])
    torch.testing.assert_close(density, g["nll_per_token"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("uniform", [0.0, 0.1, 0.2])
def test_bound_is_that_of_gidd(uniform):
    g, key = golden("gidd_hybrid"), f"pu{uniform}."
    diffusion, t, z_t = Diffusion(Hybrid(30, uniform), LogLinear(1e-9)), g["t"], g[f"{key}z_t"]
    log_p = GivenOthers().to_log_conditional(g[f"{key}logits"], diffusion, z_t, t)
    density = nelbo_density(Prediction(log_p), diffusion, g["x0"], z_t, t)
    torch.testing.assert_close(density, g[f"{key}elbo"], rtol=1e-5, atol=1e-5)
