"""The computation behind `hf-ddistill diagnose`, against dense algebra and known figures."""

from __future__ import annotations

import math

import pytest
import torch

from hf_ddistill.diagnosis.condition_number import (
    condition_row,
    operator_norm,
    power_norm,
    symmetric_norm,
)
from hf_ddistill.diagnosis.conditioning import (
    commutation_rows,
    euler_rows,
    noised_at_random,
    recovery_rows,
)
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.processes import (
    Absorbing,
    General,
    Hybrid,
    Kronecker,
    Ordinal,
    Process,
    Uniform,
)
from hf_ddistill.schedules import LogLinear

FAMILY = sorted(Process.registry)
K = 6


def _time(alpha):
    return float(LogLinear().inverse(torch.tensor(-math.log(alpha), dtype=torch.float64)))


def _random(diffusion, t, positions=256, seed=0):
    return noised_at_random(diffusion, t, positions, torch.Generator().manual_seed(seed))


def _recovered(diffusion, t, seed=0):
    rows = recovery_rows(diffusion, _random(diffusion, t), torch.Generator().manual_seed(seed))
    return {row["ratios"]: row for row in rows}


def _spinning(K=4):
    """Two rates that do not commute: round in one direction, then round through other tokens."""
    forward = torch.roll(torch.eye(K).double(), 1, 1) - torch.eye(K).double()
    swap = torch.eye(K).double()[[1, 0, *range(2, K)]]
    mixed = 0.5 * swap + 0.5 / K - torch.eye(K).double()
    mixed -= torch.diag(mixed.sum(1))
    return General(knots=((0.0, forward + mixed), (0.9, 2 * mixed)))


# -- condition numbers --------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("t", [0.3, 0.6])
def test_condition_number_is_that_of_the_dense_matrix(name, t):
    diffusion = Diffusion(Process.named(name).example(K))
    if name == "ordinal" and t > 0.5:
        t = 0.1  # beyond, a dense decomposition in float64 does not know the smallest value
    row = condition_row(diffusion, t)
    kernel = diffusion.kernel(0.0, t).dense()
    tokens = [x for x in range(K) if bool(diffusion.undetermined(torch.tensor([[x]])))]
    # Eq. 8 as it is printed: [M]_{y, a} = P[a, y] / P[a, x].
    conditions = {x: float(torch.linalg.cond((kernel / kernel[:, [x]]).mT)) for x in tokens}
    assert row["condition"] == pytest.approx(max(conditions.values()), rel=1e-6)
    assert conditions[row["token"]] == pytest.approx(row["condition"], rel=1e-5)
    assert row["kernel_condition"] == pytest.approx(float(torch.linalg.cond(kernel)), rel=1e-6)
    assert row["left_out"] == 0


@pytest.mark.parametrize(("alpha", "known"), [(0.9, 1e4), (0.5, 2e3), (0.1, 1.12e3)])
def test_uniform_of_a_thousand_tokens_has_the_known_condition(alpha, known):
    row = condition_row(Diffusion(Uniform(1000)), _time(alpha))
    assert row["condition"] == pytest.approx(known, rel=2e-3)
    assert row["kernel_condition"] == pytest.approx(1 / alpha, rel=1e-9)
    assert row["method"] == "symmetry"


def test_a_vocabulary_of_a_language_model_needs_no_matrix():
    size = 151_936
    row = condition_row(Diffusion(Uniform(size)), _time(0.5))
    assert row["condition"] == pytest.approx(2 * size, rel=1e-3)
    row = condition_row(Diffusion(Absorbing(size)), _time(0.5))
    assert row["token"] == size - 1
    # M = [[a/(1-a) I, 0], [1^T, 1]]: both norms are about sqrt(K).
    assert row["condition"] == pytest.approx(size, rel=1e-2)


@pytest.mark.parametrize("name", FAMILY)
def test_the_three_methods_for_the_norm_agree(name):
    generator = torch.Generator().manual_seed(1)
    kernel = Diffusion(Process.named(name).example(12)).kernel(0.0, 0.4)
    before = torch.rand(12, generator=generator, dtype=torch.float64) + 0.5
    after = torch.rand(12, generator=generator, dtype=torch.float64) + 0.5
    after[3:9], before[3:9] = after[3], before[3]
    exact, method = operator_norm(kernel, before, after)
    dense = after[:, None] * kernel.dense().mT * before
    assert method == "svd" and exact == pytest.approx(float(torch.linalg.svdvals(dense)[0]))
    assert power_norm(kernel, before, after) == pytest.approx(exact, rel=1e-6)
    if name in ("uniform", "absorbing", "hybrid", "low_rank"):
        assert symmetric_norm(kernel, before, after) == pytest.approx(exact, rel=1e-12)


def test_what_only_scales_alike_tokens_is_not_forgotten():
    # M(x)^-1 of Uniform near the end of time is largest on vectors that sum to 0 over the rest.
    diffusion = Diffusion(Uniform(40))
    inverse = diffusion.kernel(0.0, 0.999).inverse()
    column = torch.ones(40, dtype=torch.float64)
    dense = torch.linalg.svdvals(inverse.dense())[0]
    assert symmetric_norm(inverse, column, column) == pytest.approx(float(dense), rel=1e-9)


def test_tokens_below_the_resolution_of_a_kernel_are_counted():
    assert condition_row(Diffusion(Ordinal(17)), 0.02)["left_out"] > 0
    assert condition_row(Diffusion(Ordinal(17)), 0.1)["left_out"] == 0


# -- recovery -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("t", [0.1, 0.3, 0.9])
def test_exact_ratios_give_the_law_back(name, t):
    diffusion = Diffusion(Process.named(name).example(K))
    row = _recovered(diffusion, t)["float64"]
    condition = condition_row(diffusion, t)["kernel_condition"]
    if condition < 1e5:
        assert row["max_error"] < 1e-10 and row["tv"] < 1e-10 and row["tv_clamped"] < 1e-10
    else:
        assert name in ("general", "ordinal") and t == 0.9
        assert 1e-10 < row["max_error"] < 1e-14 * condition


def test_random_laws_obey_bayes_and_never_hold_noise_tokens():
    diffusion = Diffusion(Hybrid(K))
    noised = _random(diffusion, 0.5, positions=64)
    law = noised.truth.log_conditional.exp()
    assert torch.allclose(law.sum(-1), torch.ones(64, 1).double())
    assert float(law[..., diffusion.process.mask_token_id].max()) == 0
    masked = _random(Diffusion(Absorbing(K)), 0.05, positions=64)
    assert bool((masked.x_t == K - 1).all())  # the others leave nothing open


def test_the_error_of_ratios_off_by_a_percent_grows_with_the_condition_number():
    for process, times in ((Ordinal(9), (0.02, 0.05, 0.1, 0.15)), (Uniform(28), (0.5, 0.9, 0.99))):
        diffusion = Diffusion(process)
        conditions = [condition_row(diffusion, t)["kernel_condition"] for t in times]
        errors = [_recovered(diffusion, t)["1% off"]["tv"] for t in times]
        assert conditions == sorted(conditions) and errors == sorted(errors)
        assert errors[-1] > 10 * errors[0]


def test_the_error_of_one_percent_stays_within_the_condition_number():
    diffusion = Diffusion(Uniform(K))
    noised = _random(diffusion, 0.6, positions=512)
    truth = noised.truth.log_conditional.exp()
    rows = recovery_rows(diffusion, noised, torch.Generator().manual_seed(0))
    row = next(row for row in rows if row["ratios"] == "1% off")
    # |dp| <= cond |dr| / |r| |p|, and |dr| / |r| <= 5 % for five standard deviations of 1 %.
    bound = condition_row(diffusion, 0.6)["condition"] * 0.06 * float(truth.norm(dim=-1).max())
    assert 1e-4 < row["max_error"] < bound


def test_precision_orders_the_errors():
    rows = _recovered(Diffusion(Uniform(28)), 0.9)
    errors = [rows[name]["tv"] for name in ("float64", "float32", "1% off")]
    assert errors == sorted(errors) and errors[0] < 1e-13 < 1e-8 < errors[1] < 1e-5 < errors[2]


def test_negative_mass_shows_and_clamping_removes_it():
    row = _recovered(Diffusion(Uniform(28)), 0.98)["1% off"]
    assert 0 < row["negative_mass"] < 0.5
    assert row["tv_clamped"] < row["tv"]


def test_a_law_that_is_lost_counts_as_far_away_instead_of_failing():
    row = _recovered(Diffusion(Ordinal(17)), 0.98)["float32"]
    assert row["max_error"] is None and row["tv_clamped"] == 1


def test_a_kernel_without_an_inverse_is_reported_instead_of_raised():
    # By the first knot all tokens are alike to rounding: the matrix is singular in float64.
    fast = 200 * (torch.ones(3, 3).double() / 3 - torch.eye(3).double())
    diffusion = Diffusion(General(knots=((0.0, fast), (0.5, 2 * fast)), tolerance=1e6))
    row = condition_row(diffusion, 0.9)
    assert row["condition"] is None or row["condition"] > 1e15
    assert _recovered(diffusion, 0.9)["float64"]["tv_clamped"] > 0.1


# -- commutation --------------------------------------------------------------------------------


def test_knots_that_do_not_commute_report_it():
    process = _spinning()
    (row,) = commutation_rows(process, [0.1, 1.0])
    assert row["commutator"] == process.commutator > 1e-3
    assert 0 < row["error_bound"] <= process.tolerance and row["steps"] == process.steps > 1


@pytest.mark.parametrize("name", sorted(set(FAMILY) - {"hybrid"}))
def test_one_fixed_rate_commutes_with_itself(name):
    for row in commutation_rows(Process.named(name).example(K), [0.1, 0.7, 3.0]):
        assert row["commutator"] < 1e-14 and row["error_bound"] == 0 and row["steps"] == 1


def test_a_mixture_that_changes_is_seen_although_its_kernel_is_exact():
    sigmas = [0.1, 1.0]
    assert commutation_rows(Hybrid(K, uniform=0.3), sigmas)[0]["commutator"] > 1e-3
    still = commutation_rows(Hybrid(K, uniform=0.3, constant=True), sigmas)[0]
    assert still["commutator"] < 1e-14


def test_factors_of_a_product_are_reported_one_by_one():
    rows = commutation_rows(Kronecker((Uniform(3), _spinning())), [0.1, 1.0])
    assert [row["process"] for row in rows] == ["uniform", "general"]
    assert rows[0]["commutator"] == 0 < rows[1]["commutator"]


# -- Euler --------------------------------------------------------------------------------------


def test_an_euler_step_errs_by_the_square_of_its_length():
    diffusion = Diffusion(Uniform(28))
    rows = euler_rows(diffusion, _random(diffusion, 0.5), (0.0025, 0.005, 0.01))
    small, middle, large = (row["tv"] for row in rows)
    assert middle / small == pytest.approx(4, rel=0.05) and large / middle == pytest.approx(
        4, rel=0.1
    )
    assert all(row["clipped"] == 0 for row in rows)


def test_an_euler_step_saturates_where_leaving_is_clipped():
    diffusion = Diffusion(Uniform(28))
    rows = euler_rows(diffusion, _random(diffusion, 0.75), (0.02, 0.1, 0.25, 0.5))
    tv = [row["tv"] for row in rows]
    assert tv[0] < 0.02 and tv[2] > 0.3
    # From 0.1 to 0.25 it grows, from 0.25 to 0.5 the square would be four times as much.
    assert tv[3] < 1.2 * tv[2] <= 1.2
    assert rows[0]["clipped"] == 0 and rows[3]["clipped"] > 0.9


def test_euler_is_exact_for_masks_when_their_share_grows_linearly():
    diffusion = Diffusion(Absorbing(K))
    for row in euler_rows(diffusion, _random(diffusion, 0.5), (0.1, 0.5)):
        assert row["tv"] < 1e-12 and row["clipped"] == 0


def test_steps_beyond_the_data_are_left_out():
    diffusion = Diffusion(Uniform(K))
    rows = euler_rows(diffusion, _random(diffusion, 0.25), (0.1, 0.25, 0.5))
    assert [row["h"] for row in rows] == [0.1, 0.25]
