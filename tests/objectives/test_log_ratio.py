"""The log-ratio of teacher and student at random views, on spaces that can be enumerated."""

import math
from dataclasses import replace

import pytest
import torch
from small_laws import FLIPS, MASKS, L, problem, step_of, table

from hf_ddistill.denoisers import NetworkDenoiser
from hf_ddistill.laboratory import kl_divergence
from hf_ddistill.objectives.log_ratio import check_possible, log_ratio
from hf_ddistill.objectives.views import random_view
from hf_ddistill.parameterizations import Conditional


def rewards_of(step, law="uniform"):
    view = random_view(step, step.x_0, torch.ones_like(step.x_0, dtype=torch.bool), law)
    ratio = log_ratio(step, step.x_0, view.z, view.t, view.where)
    return ratio.of_tokens.sum(1) * view.weight


@pytest.mark.parametrize("law", ["uniform", "inverse"])
def test_mean_over_random_maskings_is_the_log_ratio_of_the_laws(law):
    teacher, student = problem(MASKS, 1), problem(MASKS, 2)
    step = step_of(MASKS, table(MASKS), teacher.denoiser(), student.denoiser(), 2**L * 4000)
    found = rewards_of(step, law).view(-1, 2**L)
    true = (teacher.law / student.law).log()
    error = found.std(0) / math.sqrt(len(found))
    assert ((found.mean(0) - true).abs() < 4.5 * error).all()
    assert error.max() < 0.05


def test_mean_of_bounds_is_minus_the_divergence_where_nothing_is_masked():
    teacher, student = problem(FLIPS, 1), problem(FLIPS, 2)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.multinomial(student.law, 60_000, True, generator=generator)
    step = step_of(FLIPS, table(FLIPS), teacher.denoiser(), student.denoiser(), rows=60_000)
    rewards = rewards_of(replace(step, x_0=student.sequences[drawn]))
    true = -kl_divergence(student.law, teacher.law)
    error = rewards.std() / math.sqrt(len(rewards))
    assert abs(rewards.mean() - true) < 4.5 * error + 0.01 * abs(true)
    assert error < 0.1 * abs(true)


def test_gradients_reach_the_auxiliary_s_prediction_where_it_is_trained_and_nothing_else():
    teacher, auxiliary = problem(MASKS, 1).denoiser(), table(MASKS, seed=4)
    for train in ({"student"}, {"student", "auxiliary"}):
        step = step_of(MASKS, table(MASKS), teacher, auxiliary, train=frozenset(train))
        view = random_view(step, step.x_0, step.trained)
        ratio = log_ratio(step, step.x_0, view.z, view.t, view.where)
        assert ratio.auxiliary.prediction.log_conditional.requires_grad == ("auxiliary" in train)
        assert not ratio.difference.requires_grad and not ratio.of_tokens.requires_grad


def test_tokens_that_the_teacher_holds_impossible_are_named():
    def network(x_t, t, at=None):
        log_p = torch.zeros(*x_t.shape, 3).double()
        log_p[..., 1] = -torch.inf
        return log_p if at is None else log_p.flatten(0, 1)[at]

    never_one = NetworkDenoiser(network, MASKS, Conditional())
    step = step_of(MASKS, table(MASKS), never_one, table(MASKS, seed=4), rows=2**L)
    masks, t = torch.full_like(step.x_0, 2), torch.ones(2**L).double()
    ratio = log_ratio(step, step.x_0, masks, t, step.trained)
    assert torch.equal(ratio.impossible, step.x_0 == 1)
    with pytest.raises(ValueError, match="gives no probability"):
        check_possible(ratio)


def test_missing_networks_are_named():
    step = step_of(MASKS, table(MASKS))
    view = random_view(step, step.x_0, step.trained)
    with pytest.raises(ValueError, match="lacks auxiliary, teacher"):
        log_ratio(step, step.x_0, view.z, view.t, view.where)


# ---------------------------------------------------------------------------- views


@pytest.mark.parametrize("law", ["uniform", "inverse"])
def test_padding_is_never_asked_for_and_counts_for_no_time(law):
    attend = torch.tensor([[True, True, False]] * 400)
    step = step_of(MASKS, table(MASKS), rows=400, attend=attend)
    view = random_view(step, step.x_0, attend, law)
    assert not view.where[:, 2].any() and (view.z[:, 2] == step.x_0[:, 2]).all()
    kept = 1 - MASKS.schedule.alpha(view.t).round(decimals=6)
    assert torch.equal(view.where.sum(1).double() / 2, kept)
