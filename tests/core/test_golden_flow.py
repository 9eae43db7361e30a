"""The steps of the published solver of discrete flow matching."""

from __future__ import annotations

import re

import pytest
import torch
from golden import golden

from hf_ddistill.diffusion import Diffusion
from hf_ddistill.parameterizations import Prediction
from hf_ddistill.processes import Absorbing, Hybrid, Uniform
from hf_ddistill.samplers import Euler, FlowMatching, Sampler
from hf_ddistill.schedules import LogLinear, Polynomial

FLOW = golden("flow_matching_euler")
STEPS = [key for key in FLOW if key.endswith("step_probs_f64")]


@pytest.mark.parametrize("key", STEPS)
def test_step_is_that_of_flow_matching(key):
    power, div, t, h = map(float, re.search("poly(.*).div(.*).t(.*).h(.*).step", key).groups())
    diffusion = Diffusion(Uniform(12), Polynomial(power, 1e-12))
    prediction, x_t = Prediction(FLOW["p1_given_t"].log()), FLOW["x_t"]
    given = (prediction, diffusion, x_t, 1 - t - h, 1 - t)
    step = FlowMatching(corrector=div).rule(*given)
    # Their p(x_1 | x_t) is float32: its rows sum to 1 up to 1e-7.
    torch.testing.assert_close(step, FLOW[key], rtol=0, atol=2e-7)
    assert (Euler().rule(*given) - FLOW[key]).abs().max() > 1e-3, "the reverse rate is another"


def test_all_steps_of_the_solver_are_compared():
    assert len(STEPS) == 8


def test_a_process_without_such_a_path_is_refused():
    for process in (Absorbing(4), Uniform(4)):
        FlowMatching(0.5).check(Diffusion(process))
    with pytest.raises(ValueError, match="redraw a token from one law.*not for Hybrid"):
        FlowMatching().check(Diffusion(Hybrid(4)))
    with pytest.raises(ValueError, match="'flow_matching' steps take the rate"):
        FlowMatching().check(Diffusion(Uniform(4), Polynomial(0.5)))
    with pytest.raises(ValueError, match="corrector must be at least 0 and finite, got -1"):
        Sampler.from_config({"type": "flow_matching", "corrector": -1.0})


def test_masks_that_are_corrected_come_back():
    diffusion, x = Diffusion(Absorbing(3), LogLinear(1e-3)), torch.zeros(1, 200, dtype=torch.int64)
    prediction = Prediction(torch.tensor([1.0, 1e-30, 1e-30]).log().expand(1, 200, 3))
    step = FlowMatching(2.0).rule(prediction, diffusion, x, 0.4, 0.5)[0, 0]
    away = 2 * 0.1 * float(diffusion.schedule.rate(torch.tensor(0.5)))
    assert float(step[2]) == pytest.approx(1 - 2.718281828459045**-away, rel=1e-5)
    assert FlowMatching().keeps_certain and not FlowMatching(2.0).keeps_certain
