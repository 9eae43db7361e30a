"""General: any rate matrix, also a defective one, and one that changes over time."""

from __future__ import annotations

import json
import math

import pytest
import torch

from hf_ddistill.linalg import Dense
from hf_ddistill.processes import General, Process

K = 4


def random_rate(seed, size=K):
    q = torch.rand(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return q - torch.diag(q.sum(-1))


def birth_chain(size):
    """Level i moves to i + 1 at rate 1 and the last one stays: one Jordan block of size K - 1."""
    q = torch.diag(torch.ones(size - 1, dtype=torch.float64), 1)
    return q - torch.diag(q.sum(-1))


def knotted(tolerance=1e-3):
    taus = (0.0, 0.4, 0.8)
    knots = [(tau, random_rate(seed)) for seed, tau in enumerate(taus)]
    return General(knots=knots, tolerance=tolerance)


def reference(process, sigma_s, sigma_t, steps=4096):
    """The time-ordered product of very many exponentials, multiplied in pairs."""
    h = (sigma_t - sigma_s) / steps
    middles = sigma_s + (torch.arange(steps, dtype=torch.float64) + 0.5) * h
    product = torch.matrix_exp(h * process.at(middles))
    while len(product) > 1:
        product = product[::2] @ product[1::2]
    return product[0]


def norm(matrix):
    return float(matrix.abs().sum(-1).max())


@pytest.mark.parametrize("size", [3, 8, 64])
def test_matrix_without_eigenvectors_still_has_its_kernel(size):
    process, sigma = General(birth_chain(size)), torch.tensor([0.0, 0.7], dtype=torch.float64)
    assert isinstance(process.rate(), Dense)
    kernel = process.kernel(torch.zeros_like(sigma), sigma).dense()
    # Started at 0, level i is reached by i events of a Poisson process.
    poisson = [math.exp(-0.7) * 0.7**i / math.factorial(i) for i in range(size - 1)]
    torch.testing.assert_close(kernel[1, 0, :-1], torch.tensor(poisson, dtype=torch.float64))
    torch.testing.assert_close(kernel[0], torch.eye(size, dtype=torch.float64))
    torch.testing.assert_close(process.limit()[-1], torch.ones((), dtype=torch.float64))


def test_complex_eigenvalues_leave_a_real_kernel():
    cycle = torch.roll(torch.eye(5, dtype=torch.float64), 1, 1) - torch.eye(5, dtype=torch.float64)
    kernel = General(cycle).kernel(torch.tensor(0.0), torch.tensor(2.0).double())
    expected = torch.matrix_exp(2 * cycle)
    torch.testing.assert_close(kernel.dense(), expected)
    torch.testing.assert_close(kernel.rows(torch.arange(5)[None])[0], expected)
    torch.testing.assert_close(kernel.columns(torch.arange(5)[None])[0], expected.mT)


def test_kernel_between_knots_is_within_its_bound():
    for tolerance in (1e-1, 1e-3):
        process = knotted(tolerance)
        assert 0 < process.error_bound <= tolerance
        for s, t in ((0.0, 2.5), (0.1, 0.4), (0.3, 1.2), (1.7, 3.0)):
            s, t = torch.tensor([s, t], dtype=torch.float64)
            error = norm(process.kernel(s, t).dense() - reference(process, s, t))
            assert error <= process.error_bound + 1e-6


def test_bound_of_the_knots_is_met_by_a_short_step():
    """Its leading term is the error itself: a bound that is too wide would hide a wrong one."""
    first, second = random_rate(0), random_rate(0) + 0.05 * random_rate(1)
    process = General(knots=[(0.0, first), (0.02, second)], tolerance=1.0)
    s, t = torch.tensor([0.0, -math.log1p(-0.02)], dtype=torch.float64)
    error = norm(process.kernel(s, t).dense() - reference(process, s, t))
    assert process.steps == 1
    assert 0.8 * process.error_bound < error <= process.error_bound


def test_kernel_between_knots_is_stochastic_and_composes_within_the_bound():
    process = knotted()
    r, s, t = torch.tensor([[0.0, 0.2], [0.5, 0.2], [1.9, 3.0]], dtype=torch.float64)
    kernel = process.kernel(r, t).dense()
    assert kernel.min() >= 0
    torch.testing.assert_close(kernel.sum(-1), torch.ones(2, K, dtype=torch.float64))
    composed = process.kernel(r, s).dense() @ process.kernel(s, t).dense()
    assert norm(composed[0] - kernel[0]) <= 2 * process.error_bound
    assert norm(composed[1] - kernel[1]) <= 2 * process.error_bound
    torch.testing.assert_close(kernel[0], process.kernel(r[0], t[0]).dense())


def test_rate_between_knots_is_linear_in_the_noise_and_constant_outside():
    process = knotted()
    sigmas = -torch.log1p(-torch.tensor([0.0, 0.4, 0.8], dtype=torch.float64))
    first, second, third = (random_rate(seed) for seed in range(3))
    torch.testing.assert_close(process.rate(sigmas).dense(), torch.stack([first, second, third]))
    middle = process.rate((sigmas[0] + sigmas[1]) / 2).dense()
    torch.testing.assert_close(middle, (first + second) / 2)
    torch.testing.assert_close(process.rate(sigmas[2] + 5).dense(), third)


def test_equal_knots_are_one_matrix():
    q = random_rate(3)
    process = General(knots=[(0.1, q), (0.7, q)])
    assert process.commutes and process.error_bound < 1e-15 and process.steps == 1
    s, t = torch.tensor([0.0, 2.0], dtype=torch.float64)
    torch.testing.assert_close(process.kernel(s, t).dense(), General(q).kernel(s, t).dense())
    assert not knotted().commutes and General(q).error_bound == 0


def test_kernel_with_knots_tends_to_the_limit_of_the_last_matrix():
    process = knotted()
    kernel = process.kernel(torch.tensor(0.0).double(), torch.tensor(60.0).double()).dense()
    torch.testing.assert_close(kernel, process.limit().expand(K, K), rtol=0, atol=1e-10)


def test_json_keeps_the_knots():
    process = knotted()
    again = Process.from_config(json.loads(json.dumps(process.to_config())))
    assert again == process and hash(again) == hash(process)


def test_mask_of_a_general_process_is_a_noise_token():
    to_mask = torch.zeros(K, K, dtype=torch.float64)
    to_mask[:3, 3] = 1.0
    process = General(to_mask - torch.diag(to_mask.sum(-1)), mask_token_id=3)
    assert process.noise_tokens == (3,)
    assert process.limit().tolist() == pytest.approx([0, 0, 0, 1])


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "either a matrix or knots"),
        ({"matrix": [[-1.0, 1.0], [1.0, -1.0]], "knots": []}, "either a matrix or knots"),
        ({"matrix": [[-1.0, 1.0], [1.0, -0.9]]}, "rows that sum to 0"),
        ({"matrix": [[1.0, -1.0], [1.0, -1.0]]}, "off-diagonal rates >= 0"),
        ({"matrix": [[-1.0, 1.0, 0.0], [1.0, -1.0, 0.0]]}, "is square"),
        ({"knots": [(0.0, random_rate(0))]}, "two or more increasing times"),
        ({"knots": [(0.5, random_rate(0)), (0.1, random_rate(1))]}, r"got \[0.5, 0.1\]"),
        ({"knots": [(0.5, random_rate(0)), (1.0, random_rate(1))]}, r"in \[0, 1\)"),
        ({"knots": [(0.1, random_rate(0)), (0.5, random_rate(1, 5))]}, "one size"),
        ({"matrix": random_rate(0), "mask_token_id": 4}, "outside the vocabulary"),
    ],
)
def test_settings_without_a_process_are_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        General(**settings)


def test_vocabulary_beyond_the_cap_names_what_goes_further():
    with pytest.raises(ValueError, match="at most 1024 tokens .* got 1025; LowRank, Hybrid or"):
        General(torch.zeros(1025, 1025))


def test_two_closed_classes_have_no_one_limit_law():
    q = torch.block_diag(random_rate(0, 2), random_rate(1, 2))
    with pytest.raises(ValueError, match="more than one limit law"):
        General(q).limit()
