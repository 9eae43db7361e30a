"""The numbers of the published code: schedules, rates, scores, steps and divergences.

That code runs in float32, so nothing can agree to more than about seven digits.
"""

from __future__ import annotations

import pytest
import torch
from golden import golden

from hf_ddistill.diffusion import Diffusion
from hf_ddistill.divergences import ForwardKL, ReverseKL
from hf_ddistill.parameterizations import Conditional, GivenOthers, Prediction, Score, Subs
from hf_ddistill.processes import Absorbing, Hybrid, Uniform
from hf_ddistill.samplers import Analytic, Ancestral
from hf_ddistill.schedules import Cosine, Geometric, Linear, LogLinear, Sine
from hf_ddistill.shapes import LOG_ZERO

MASK = 50
ABSORBING = Diffusion(Absorbing(51), LogLinear(1e-3))
UNIFORM = Diffusion(Uniform(50), LogLinear(1e-3))


def close(found, expected, atol=1e-5, rtol=1e-6):
    torch.testing.assert_close(found, expected, rtol=rtol, atol=atol)


@pytest.mark.parametrize(
    ("key", "schedule"),
    [
        ("sedd.geometric_1e-3_1", Geometric(1e-3, 1.0)),
        ("sedd.geometric_1e-4_20", Geometric(1e-4, 20.0)),
        ("sedd.loglinear_eps1e-3", LogLinear(1e-3)),
        ("mdlm.geometric_1e-4_20", Geometric(1e-4, 20.0)),
        ("mdlm.loglinear_eps1e-3", LogLinear(1e-3)),
        ("mdlm.linear_1e-3_7", Linear(1e-3, 7.0)),
        ("mdlm.cosine_eps1e-3", Cosine(1e-3)),
        ("mdlm.cosinesqr_eps1e-3", Cosine(1e-3, 2)),
    ],
)
def test_noise_and_rate_are_those_of_sedd_and_mdlm(key, schedule):
    g = golden("noise_schedules")
    t = g["sedd.t"]
    # Near t = 1 float32 leaves three digits of alpha = eps, hence the tolerances.
    close(schedule.sigma(t), g[f"{key}.sigma"], atol=1e-6, rtol=1e-5)
    close(schedule.rate(t), g[f"{key}.dsigma"], atol=2e-4, rtol=1e-4)


def test_alpha_and_its_slope_are_those_of_duo():
    g, schedule = golden("noise_schedules"), LogLinear(1e-3)
    t = g["duo.t"]
    close(schedule.alpha(t), g["duo.loglinear_eps1e-3.alpha"], atol=1e-7)
    close(-schedule.alpha(t) * schedule.rate(t), g["duo.loglinear_eps1e-3.dalpha"])
    sine = Sine(1e-3)
    close(sine.alpha(t), g["duo.cosine_eps1e-3.alpha"], atol=1e-7)
    # Duo's slope lacks the factor 1 - eps.
    slope = -sine.alpha(t) * sine.rate(t)
    close(slope, (1 - 1e-3) * g["duo.cosine_eps1e-3.dalpha"])


def test_rates_and_kernels_are_those_of_sedd():
    g, process = golden("sedd_absorb"), ABSORBING.process
    x_t, t = g["x_t"], g["t"]
    close(process.rate().rows(x_t), g["graph_rate"])
    close(process.rate().columns(x_t), g["graph_transp_rate"])
    close(ABSORBING.schedule.sigma(t), g["sigma"], atol=1e-6)
    close(ABSORBING.schedule.rate(t), g["dsigma"], rtol=1e-5)
    close(ABSORBING.kernel(0.0, t).columns(x_t), g["graph_transp_transition_sigma"])


def test_score_is_that_of_sedd():
    g = golden("sedd_absorb")
    score = Score(scale_by_sigma=True)
    log_score = score.log_score(g["raw_logits"], ABSORBING, g["x_t"], g["t"])
    close(log_score, g["log_score"])
    # A score that is read as a conditional and written again differs by the factor that makes it
    # a law's: what its ratios to all tokens but the mask should sum to.
    t, masked = g["t"], g["x_t"] == MASK
    log_p = score.to_log_conditional(g["raw_logits"], ABSORBING, g["x_t"], t)
    again = Prediction(log_p).score(ABSORBING, g["x_t"], t)[masked][:, :-1]
    proper = g["log_score"].exp()[masked][:, :-1]
    close(again / again.sum(-1, keepdim=True), proper / proper.sum(-1, keepdim=True))
    alpha = ABSORBING.schedule.alpha(t)[:, None].expand_as(masked)[masked]
    close(again.sum(-1), alpha / (1 - alpha))


def test_steps_are_those_of_sedd():
    g = golden("sedd_absorb")
    x_t, t, h, score = g["x_t"], g["t"], float(g["step_size"]), g["log_score"].exp()
    staggered = ABSORBING.process.rate().exp(g["dsigma_stag"][:, 0]).inverse().vecmat(score)
    close(staggered, g["staggered_score"])
    rate = ABSORBING.reverse_rate(score, x_t, t)
    close(rate, g["dsigma"][:, None, None] * g["graph_reverse_rate"])
    here = torch.nn.functional.one_hot(x_t, 51)
    close(here + h * rate, g["euler_step_weights"])
    kernel = ABSORBING.kernel(t - h, t)
    weights = kernel.inverse().vecmat(score) * kernel.columns(x_t)
    close(weights, g["analytic_step_weights"])


def test_conditional_and_score_are_those_of_mdlm():
    g = golden("mdlm_subs")
    log_p = Subs().to_log_conditional(g["raw_logits"], ABSORBING, g["x_t"], g["t"])
    close(log_p[..., :-1], g["log_p_x0"][..., :-1])
    assert (log_p[..., MASK].exp() == 0)[g["x_t"] == MASK].all()
    close(Prediction(log_p).score(ABSORBING, g["x_t"], g["t"]), g["score_from_subs"])


def test_steps_are_those_of_mdlm():
    g = golden("mdlm_subs")
    x_t, t, s, masked = g["x_t"], g["t"], g["t"] - g["dt"], g["x_t"] == MASK
    prediction = Prediction(g["log_p_x0"])
    close(Analytic().rule(prediction, ABSORBING, x_t, s, t), g["analytic_update_weights"])
    # MDLM's ancestral weights are neither normalised nor used where x_t is no mask; its cached
    # sampler takes t itself for the share of masks.
    for key, eps in (("ddpm", 1e-3), ("ddpm_cache", 1e-9)):
        weights = g[f"{key}_update_weights_unnormalised"]
        weights = weights / weights.sum(-1, keepdim=True)
        step = Ancestral().rule(prediction, Diffusion(Absorbing(51), LogLinear(eps)), x_t, s, t)
        close(step[masked], weights[masked], atol=1e-6)


def duo_times(g, diffusion):
    """Duo's alphas are kept in float32; its times are those at which ours are the same."""
    return (diffusion.schedule.inverse(-g[key][:, 0].log()) for key in ("alpha_s", "alpha_t"))


def test_posterior_is_that_of_duo_for_masks():
    g = golden("duo_mdlm")
    s, t = duo_times(g, ABSORBING)
    step = Ancestral().rule(Prediction(g["log_p_x0"]), ABSORBING, g["x_t"], s, t)
    close(step, g["posterior_f64"], atol=1e-7)


def test_posterior_is_that_of_duo_for_uniform_noise():
    g = golden("duo_uniform_loglinear")
    x_t, (s, t) = g["x_t"], duo_times(g, UNIFORM)
    close(t, g["t"])
    close(Conditional().to_log_conditional(g["raw_logits"], UNIFORM, x_t, t), g["log_p_x0"])
    prediction = Prediction(GivenOthers().to_log_conditional(g["raw_logits"], UNIFORM, x_t, t))
    step = Ancestral().rule(prediction, UNIFORM, x_t, s, t)
    # Duo's one-hot is float32: its rows sum to 1 only up to 5e-8.
    close(step, g["posterior_model_f64"], atol=1e-7)
    close(step, g["ancestral_update_probs_f64"], atol=1e-7)
    to_data = Ancestral().rule(prediction, UNIFORM, x_t, 0.0, t)
    close(to_data, g["posterior_to_0_model_f64"], atol=1e-7)


def test_duos_output_is_not_the_conditional_that_it_looks_like():
    g = golden("duo_uniform_loglinear")
    s, t = duo_times(g, UNIFORM)
    log_p = Conditional().to_log_conditional(g["raw_logits"], UNIFORM, g["x_t"], t)
    step = Ancestral().rule(Prediction(log_p), UNIFORM, g["x_t"], s, t)
    assert (step - g["posterior_model_f64"]).abs().max() > 0.1


def test_posterior_given_the_clean_token_is_that_of_duo():
    g = golden("duo_uniform_loglinear")
    s, t = duo_times(g, UNIFORM)
    known = torch.nn.functional.one_hot(g["x0"], 50).double().log().clamp_min(LOG_ZERO)
    step = Ancestral().rule(Prediction(known), UNIFORM, g["x_t"], s, t)
    close(step, g["posterior_true_x0_f64"], atol=1e-7)


@pytest.mark.parametrize("uniform", [0.0, 0.1, 0.2])
def test_shares_kernel_and_steps_are_those_of_gidd(uniform):
    g, key = golden("gidd_hybrid"), f"pu{uniform}."
    diffusion, s, t, z_t = (
        Diffusion(Hybrid(30, uniform), LogLinear(1e-9)),
        g["s"],
        g["t"],
        g[f"{key}z_t"],
    )
    left, noise = diffusion.process.shares(diffusion.schedule.sigma(t))
    close(left, g[f"{key}alpha_t"][:, 0], atol=1e-6)
    close(noise[:, 0], g[f"{key}beta_pi_t"][:, 29], atol=1e-6)
    close(noise[:, 1:] / 29, g[f"{key}beta_pi_t"][:, :1], atol=1e-6)
    close(diffusion.kernel(0.0, t).rows(g["x0"]), g[f"{key}q_t_given_x0"], atol=1e-6)
    log_p = GivenOthers().to_log_conditional(g[f"{key}logits"], diffusion, z_t, t)
    step = Ancestral().rule(Prediction(log_p), diffusion, z_t, s, t)
    close(step, g[f"{key}reverse_step_probs_t_to_s"], atol=1e-6)


def test_divergences_are_those_of_sdtt_and_dcd():
    g = golden("divergences")
    log_p, log_q = g["teacher_log_probs"], g["student_log_probs"]
    forward, reverse = ForwardKL()(log_p, log_q), ReverseKL()(log_p, log_q)
    close(forward.mean(), g["sdtt.kl-fwd"])
    close(reverse.mean(), g["sdtt.kl-bwd"])
    close(forward, g["dcd.kl-fwd_per_token"])
    close(reverse, g["dcd.kl-bwd_per_token"])
