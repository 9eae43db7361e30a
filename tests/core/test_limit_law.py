"""The law that a chain tends to, and the prior drawn from it: exact zeros, one seed, one draw."""

from __future__ import annotations

import copy

import pytest
import torch
from core_cases import PROCESSES, generator_matrix, random_rate, to_mask
from largest_tensor import LargestTensor

from hf_ddistill.diffusion import Diffusion
from hf_ddistill.processes import LowRank, Process, Uniform
from hf_ddistill.processes.limit_law import limit_law

each_process = pytest.mark.parametrize("name", PROCESSES)


def test_the_limit_of_a_chain_is_its_left_null_vector():
    for seed in range(5):
        q = random_rate(seed, 12)
        _, values, right = torch.linalg.svd(q.mT)
        null = right[-1] / right[-1].sum()
        assert values[-1] < 1e-14
        torch.testing.assert_close(limit_law(q), null, rtol=1e-10, atol=0)


def test_the_limit_of_a_drift_over_many_states_neither_overflows_nor_loses_its_rare_states():
    up = 10.0 ** torch.linspace(-1, 1, 399, dtype=torch.float64)
    q = generator_matrix(torch.diag(up, 1) + torch.diag(torch.ones(399, dtype=torch.float64), -1))
    expected = torch.cat([torch.zeros(1, dtype=torch.float64), up.log().cumsum(0)]).softmax(0)
    torch.testing.assert_close(limit_law(q), expected, rtol=1e-9, atol=1e-300)
    steep = generator_matrix(10 * torch.diag(torch.ones(399, dtype=torch.float64), 1) + q.tril(-1))
    assert float(limit_law(steep)[-1]) == pytest.approx(0.9)


def test_states_that_are_left_for_good_have_no_limit_probability():
    rates = torch.zeros(5, 5, dtype=torch.float64)
    rates[0, 1], rates[1, 2], rates[2, 3], rates[3, 2], rates[4, 3] = 0.3, 0.1, 2.0, 1.0, 0.7
    assert limit_law(rates).tolist() == pytest.approx([0, 0, 1 / 3, 2 / 3, 0])
    assert (limit_law(rates) == 0).tolist() == [True, True, False, False, True]
    assert limit_law(to_mask()).tolist() == [0, 0, 0, 1]
    rates[3, 2] = rates[2, 3] = 0
    with pytest.raises(ValueError, match="no token can be reached from all others"):
        limit_law(rates)


def test_clusters_that_alternate_have_a_limit_law():
    """Each reaches the other, but not in every number of jumps; it was refused."""
    eye = [[1.0, 0.0], [0.0, 1.0]]
    process = LowRank(2, eye, [[0.0, 1.0], [1.0, 0.0]])
    far = process.kernel(torch.zeros(()).double(), torch.tensor(60.0).double()).dense()
    torch.testing.assert_close(far, process.limit().expand(2, 2), rtol=0, atol=1e-12)


@each_process
def test_one_seed_draws_one_prior_whichever_object_is_asked_and_how_often(name):
    """Under an absorbing matrix the limit law came out as 1 or as 1 - 1e-16, from call to call."""
    process = PROCESSES[name]
    diffusions = [Diffusion(Process.from_config(process.to_config())) for _ in range(3)]
    diffusions += [Diffusion(copy.deepcopy(process)), Diffusion(process)]
    drawn, states = [], []
    for diffusion in diffusions * 4:
        generator = torch.Generator().manual_seed(3)
        drawn.append(diffusion.prior((2, 5), generator))
        states.append(generator.get_state())
    assert all(torch.equal(x, drawn[0]) for x in drawn)
    assert all(torch.equal(state, states[0]) for state in states)
    # A law that is certain of one token takes no numbers, and only such a law.
    untouched = torch.equal(states[0], torch.Generator().manual_seed(3).get_state())
    assert untouched == (int((process.limit() > 0).sum()) == 1)


def test_the_prior_over_a_large_vocabulary_makes_no_distribution_for_each_position():
    diffusion = Diffusion(Uniform(151_936))
    with LargestTensor() as largest:
        x = diffusion.prior((4, 256), torch.Generator().manual_seed(0))
    assert largest.numel <= 151_936 and x.max() > 140_000
