"""The steps that mask again, and the shares of the posterior, of the published code (float32)."""

from __future__ import annotations

import pytest
import torch
from golden import golden

from hf_ddistill.diffusion import Diffusion
from hf_ddistill.parameterizations import GivenOthers, Prediction
from hf_ddistill.processes import Absorbing, Uniform
from hf_ddistill.samplers import Ancestral, Psi, ReMDM, ReMDMConfidence, ReMDMLoop
from hf_ddistill.schedules import LogLinear

#: ReMDM's time is the share of masks.
MASKED = Diffusion(Absorbing(20), LogLinear(1e-9))
DUO = {"duo_mdlm": Absorbing(51), "duo_uniform_loglinear": Uniform(50)}


def close(found, expected, atol=1e-6):
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("t", [0.3, 0.6])
@pytest.mark.parametrize(
    ("key", "sampler"),
    [
        ("remdm-cap", ReMDM("cap", 0.04)),
        ("remdm-rescale", ReMDM("rescale", 0.3)),
        ("forward-backward", ReMDM("forward_backward", 1.0)),
    ],
)
def test_steps_are_those_of_remdm(key, sampler, t):
    g = golden("remdm_steps")
    step = sampler.rule(Prediction(g["log_p_x0"]), MASKED, g["x_t"], t - 0.1, t)
    close(step, g[f"{key}.t{t}.dt0.1.probs"])


@pytest.mark.parametrize("t", [0.3, 0.6])
def test_steps_by_confidence_are_those_of_remdm(t):
    g, run = golden("remdm_steps"), ReMDMConfidence().begin()
    expected, masked = g[f"remdm-conf.t{t}.dt0.1.probs"], g["x_t"] == 19
    run._known["p"] = -g["conf_in"]
    close(run.again(MASKED, g["x_t"], t - 0.1, t), expected[..., 19].masked_fill(masked, 0.0))
    step = Ancestral().rule(Prediction(g["log_p_x0"]), MASKED, g["x_t"], t - 0.1, t)
    close(step[masked], expected[masked])


def test_steps_in_the_loop_are_those_of_remdm():
    """Its loop stands still; ours falls by a hundredth, here by as little as float64 allows."""
    g, sampler = golden("remdm_steps"), ReMDMLoop()
    step = sampler.rule(Prediction(g["log_p_x0"]), MASKED, g["x_t"], 0.1 - 1e-10, 0.1)
    close(step, g["remdm-loop.t0.3.dt0.1.probs"])


@pytest.mark.parametrize(("t", "dt"), [(0.8, 0.1), (0.04, 0.02)])
def test_before_and_behind_the_loop_steps_are_those_of_remdm(t, dt):
    """Its time runs evenly over the steps, as the places of our grid do: 1 - t of them are made."""
    g, sampler = golden("remdm_steps"), ReMDMLoop()
    grid = sampler.grid(100, MASKED)
    now, then = (grid[round(100 * (1 - each))] for each in (t, t - dt))
    step = sampler.rule(Prediction(g["log_p_x0"]), MASKED, g["x_t"], then, now)
    masked = g["x_t"] == 19
    weights = g[f"remdm-loop.t{t}.dt{dt}.probs"]
    # Behind it, ours has a hundredth less to reveal.
    close(step[masked], (weights / weights.sum(-1, keepdim=True))[masked])
    assert (step[~masked].amax(-1) == 1).all()


@pytest.mark.parametrize("kappa", [0.0, 0.7])
@pytest.mark.parametrize("name", DUO)
def test_psi_steps_are_those_of_duo(name, kappa):
    g, diffusion = golden(name), Diffusion(DUO[name], LogLinear(1e-3))
    s, t = (diffusion.schedule.inverse(-g[key][:, 0].log()) for key in ("alpha_s", "alpha_t"))
    log_p = g["log_p_x0"]
    if not diffusion.reveals:
        log_p = GivenOthers().to_log_conditional(g["raw_logits"], diffusion, g["x_t"], t)
    step = Psi(kappa).rule(Prediction(log_p), diffusion, g["x_t"], s, t)
    close(step, g[f"psi_update_probs_kappa{kappa}_f64"], atol=5e-7)


@pytest.mark.parametrize(
    ("key", "sampler"),
    [
        ("constant-0.3", Psi(0.3)),
        ("pure-pc", Psi(0.0)),
        ("pure-posterior", Psi(1.0)),
        ("constant-remdm-0.02", Psi(strategy="cap", eta=0.02)),
        ("max-capped-0.05", Psi(strategy="cap", eta=0.05)),
        ("max-rescale-0.5", Psi(strategy="rescale", eta=0.5)),
    ],
)
def test_the_share_of_the_posterior_is_that_of_duo(key, sampler):
    g, diffusion = golden("duo_mdlm"), Diffusion(DUO["duo_mdlm"], LogLinear(1e-3))
    t = g["psi_timesteps"][:-1]
    s = t - (t[0] - t[1])
    found, expected = sampler.share(diffusion, s, t), g[f"kappa.{key}"][:-1]
    if key == "max-rescale-0.5":
        # Where sigma_max is above eta, Duo's code takes eta^2 in the place of eta sigma_max.
        above = (-torch.expm1(-diffusion.total_noise(s)) / diffusion.schedule.alpha(t)) > 0.5
        assert above.tolist() == [True] * 5 + [False] * 3
        other = Psi(strategy="cap", eta=0.25).share(diffusion, s, t)
        found = torch.where(above, other, found)
    close(found, expected, atol=2e-4 if key == "max-rescale-0.5" else 1e-5)
