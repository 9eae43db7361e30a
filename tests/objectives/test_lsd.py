"""LSD: numbers of a sampler, by least squares, and what becomes of them."""

from __future__ import annotations

import math

import pytest
import torch
from batch_runs import trainer_of
from enumeration import oracle, tabular, training_step
from exact_bayes import ExactBayes
from transformers import AutoModelForMaskedLM

from hf_ddistill.diffusion import Diffusion
from hf_ddistill.models import sampler_of
from hf_ddistill.objectives import LSD
from hf_ddistill.objectives.lsd import Coefficients
from hf_ddistill.processes import Absorbing, Uniform
from hf_ddistill.samplers import Euler, Sampler, ScaledEuler, step_grid
from hf_ddistill.samplers.scaled_euler import _numbers
from hf_ddistill.schedules import Cosine, LogLinear

CALLS = 4


def small(**schedule):
    return ExactBayes.random(Diffusion(Absorbing(4), **schedule), 3, seed=1)


def loss_of(problem, numbers, objective, rows=256, calls=CALLS):
    step = training_step(problem, oracle(problem), rows, student_steps=calls)
    step.peers["coefficients"] = numbers
    (loss,) = objective(step).values()
    return loss


def fitted(problem, objective, steps=60, calls=CALLS):
    numbers = Coefficients()
    optimizer = torch.optim.Adam(numbers.parameters(), 0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(problem, numbers, objective, 64, calls).backward()
        optimizer.step()
    return numbers


@pytest.mark.parametrize("learned", ["scales", "times"])
def test_numbers_move_where_a_long_step_gets_nothing_wrong(learned):
    """Independent tokens, and Euler's steps exact under alpha = 1 - t: all trajectories are one."""
    problem = ExactBayes.independent(Diffusion(Absorbing(4), LogLinear(1e-9)), 3)
    numbers = Coefficients()
    loss = loss_of(problem, numbers, LSD(16, learned))
    assert float(loss.detach()) < 1e-12
    grads = torch.autograd.grad(loss, list(numbers.parameters()), allow_unused=True)
    assert all(grad is None or grad.abs().max() < 1e-9 for grad in grads)


def test_factors_are_not_those_of_least_squares():
    """c_k = <s*, s> / <s, s> over the very trajectories that the numbers lead to."""
    problem, objective = small(schedule=Cosine()), LSD(16)
    numbers = fitted(problem, objective)
    loss = loss_of(problem, numbers, objective, 64)
    (grad,) = torch.autograd.grad(loss, numbers.log_scale)
    start = loss_of(problem, Coefficients(), objective, 64)
    assert float(loss.detach()) < float(start.detach())
    assert grad.abs().max() < 2e-3
    found = numbers.scales(CALLS).tolist()
    # Both start alike, so the first has nothing to mend, and the last nothing to do. Where Euler's
    # steps (of a cosine) have shown too little, more scores are not 0: it is told to show less.
    assert found[0] == pytest.approx(1) and found[CALLS - 1] == 1.0
    assert max(found[1 : CALLS - 1]) < 0.997


def test_nothing_but_the_numbers_is_trained():
    problem = small()
    student = tabular(problem)
    step = training_step(problem, student, student_steps=CALLS)
    step.peers["coefficients"] = Coefficients()
    losses = LSD(8)(step)
    assert set(losses) == {"coefficients"}
    losses["coefficients"].backward()
    assert student.network.logits.grad is None
    assert step.peers["coefficients"].log_scale.grad.abs().max() > 0


def test_learned_numbers_are_lost_on_the_way_to_the_sampler():
    numbers = Coefficients()
    with torch.no_grad():
        numbers.log_scale[:2] = torch.tensor([0.5, -0.5])
        numbers.log_size[:2] = torch.tensor([1.0, 0.0])
    networks = {"coefficients": numbers}
    scaled = LSD().learned_sampler(networks, 2)
    assert scaled.scales == pytest.approx((1.6487, 0.6065), abs=1e-4)
    assert list(scaled.times) == step_grid(2)
    timed = LSD(learned="times").learned_sampler(networks, 2)
    assert timed.times == pytest.approx((1.0, 0.2689, 0.0), abs=1e-4)
    for sampler in (scaled, timed):
        assert Sampler.from_config(sampler.to_config()) == sampler


def test_a_factor_of_a_step_is_no_factor_of_its_rate():
    problem = small(schedule=Cosine())
    prediction = problem.denoiser()(problem.states, 0.8)
    rules = [
        sampler.rule(prediction, problem.diffusion, problem.states, 0.6, 0.8)
        for sampler in (Euler(), ScaledEuler((9.0, 0.5), (1.0, 0.8, 0.0)))
    ]
    changed = [1 - rule.gather(-1, problem.states[..., None]) for rule in rules]
    torch.testing.assert_close(changed[1], changed[0] / 2)
    # As far as data, and no further.
    far = ScaledEuler((50.0,)).rule(prediction, problem.diffusion, problem.states, 0.6, 0.8)
    assert (far >= 0).all() and far.sum(-1).sub(1).abs().max() < 1e-6


def test_lsd_takes_settings_or_students_that_it_is_not_defined_for():
    with pytest.raises(ValueError, match="learned 'scales', 'times' or 'powers'"):
        LSD(learned="both")
    with pytest.raises(ValueError, match="one number above 0 for each step"):
        ScaledEuler((1.0, 1.0))
    uniform = ExactBayes.random(Diffusion(Uniform(3)), 2, seed=0)
    with pytest.raises(ValueError, match="'uniform' has none: take 'ecd'"):
        LSD().for_student(tabular(uniform))
    with pytest.raises(ValueError, match="numbers for 64 calls, got 65"):
        loss_of(small(), Coefficients(), LSD(), calls=65)


def test_what_is_saved_is_sampled_with_the_numbers_of_the_start(tmp_path):
    """And its network is the teacher's copy as it was."""
    trainer = trainer_of(
        tmp_path, {"type": "lsd", "teacher_steps": 4}, student_steps=2, max_steps=2
    )
    before = {name: weight.clone() for name, weight in trainer.model.state_dict().items()}
    trainer.train()
    trainer.save_model()
    numbers = trainer.auxiliaries.models["coefficients"]
    found = sampler_of(AutoModelForMaskedLM.from_pretrained(tmp_path))
    assert found.scales == pytest.approx(numbers.scales(2).tolist())
    assert all(
        torch.equal(weight, before[name]) for name, weight in trainer.model.state_dict().items()
    )


def test_the_codes_loss_has_a_minimum_in_its_numbers():
    """It falls with every one of them, from a temperature of 1 to one of 1 / 40."""
    problem, slopes, losses = small(), [], []
    for power in (1.0, 1.5, 3.0, 10.0, 40.0):
        numbers = Coefficients()
        with torch.no_grad():
            numbers.log_scale.fill_(math.log(power))
        loss = loss_of(problem, numbers, LSD(16, "powers"), 256)
        (slope,) = torch.autograd.grad(loss, numbers.log_scale)
        slopes.append(slope[:CALLS])
        losses.append(float(loss.detach()))
    assert losses == sorted(losses, reverse=True)
    assert (torch.stack(slopes)[:3] < 0).all(), "at no number does it stop"
    numbers = fitted(problem, LSD(16, "powers"), steps=10)
    assert float(numbers.scales(CALLS).detach().min()) > 1.3, "as far as ten steps of .05 go"


def test_a_power_of_a_step_is_no_power_of_its_scores():
    problem = small(schedule=Cosine())
    diffusion, prediction = problem.diffusion, problem.denoiser()(problem.states, 0.8)
    sampler = ScaledEuler((1.0, 1.0), (1.0, 0.8, 0.0), (9.0, 1.5))
    rule = sampler.rule(prediction, diffusion, problem.states, 0.75, 0.8)
    t = torch.tensor(0.8, dtype=torch.float64)
    odds = 1 / torch.expm1(diffusion.total_noise(t))
    scores = (prediction.log_conditional.double().exp() * odds) ** 1.5
    masked = problem.states == 3
    expected = (0.05 * diffusion.pace(t) * scores)[masked]
    torch.testing.assert_close(rule[masked][:, :3], expected[:, :3], atol=1e-6, rtol=1e-5)
    assert sampler.chances(diffusion, 0.75, 0.8) is None
    last = sampler.probs(prediction, diffusion, problem.states, 0.0, 0.8)
    tempered = prediction.log_conditional.double().mul(1.5).softmax(-1)[masked]
    torch.testing.assert_close(last[masked].double(), tempered, atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="powers are one number above 0 for each of 2 steps"):
        ScaledEuler((1.0, 1.0), (1.0, 0.8, 0.0), (1.0,))


@pytest.mark.parametrize("power", [float("nan"), float("inf")])
def test_powers_that_are_no_numbers_are_refused(power):
    with pytest.raises(ValueError, match="one number above 0 for each of 2 steps"):
        ScaledEuler((1.0, 1.0), (1.0, 0.5, 0.0), (2.0, power))
    with pytest.raises(ValueError, match="scales are one number above 0 for each step"):
        ScaledEuler((1.0, power), (1.0, 0.5, 0.0))


@pytest.mark.parametrize("given", [3, "ab", "12", [[2.0]]])
def test_what_is_no_list_of_numbers_is_refused_without_the_setting_s_name(given):
    """By itself: annotations are checked before it in a test."""
    with pytest.raises(ValueError, match="powers are a list of numbers, one a step, got "):
        _numbers("powers", given)
