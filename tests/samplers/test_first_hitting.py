"""One mask a call: the data's law to the last digit, in as many calls as there are masks."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from exact_bayes import ExactBayes, total_variation

from hf_ddistill.denoisers import NetworkDenoiser
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.laboratory import terminal_law
from hf_ddistill.parameterizations import Conditional
from hf_ddistill.processes import Absorbing, Hybrid
from hf_ddistill.samplers import Canvas, FirstHitting
from hf_ddistill.schedules import Cosine, LogLinear

L, SAMPLER = 3, FirstHitting()
PROBLEM = ExactBayes.random(Diffusion(Absorbing(3), Cosine(1e-3)), L)


def seeded(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def timeless(problem):
    """The oracle of masks, which hangs on no time."""
    inner = problem.denoiser()
    network = lambda x_t, t: inner(x_t, 0.5).log_conditional  # noqa: E731
    return NetworkDenoiser(network, problem.diffusion, Conditional(), reads_time=None)


def law(n):
    grid = SAMPLER.grid(n, PROBLEM.diffusion)
    return terminal_law(timeless(PROBLEM), PROBLEM.diffusion, L, grid, SAMPLER)


@pytest.mark.parametrize("n", [L, L + 4])
def test_with_a_call_for_each_mask_the_law_is_the_data_s(n):
    torch.testing.assert_close(law(n), PROBLEM.law, rtol=0, atol=1e-8)


def test_with_fewer_calls_it_is_the_mean_over_all_ways_to_share_them_out():
    """Two at once, then one: sum over which of p(x_i | -) p(x_j | -) p(x_k | x_i, x_j)."""
    index = {tuple(state.tolist()): number for number, state in enumerate(PROBLEM.states)}
    conditional, expected = PROBLEM.conditional(0.5), torch.zeros_like(PROBLEM.law)
    for both in itertools.combinations(range(L), 2):
        (last,) = set(range(L)) - set(both)
        for number, clean in enumerate(PROBLEM.clean.tolist()):
            shown = [2 if place == last else clean[place] for place in range(L)]
            weight = conditional[index[tuple(shown)], last, clean[last]]
            for place in both:
                weight = weight * conditional[index[(2,) * L], place, clean[place]]
            expected[number] += weight / 3
    torch.testing.assert_close(law(2), expected, rtol=0, atol=1e-12)
    assert total_variation(expected, PROBLEM.law) > 0.01


def test_calls_are_as_even_as_they_can_be_and_no_more_than_masks():
    for length, n, shares in ((5, 3, [2, 2, 1]), (4, 4, [1] * 4), (3, 9, [1] * 3), (4, 1, [4])):
        left = []

        def network(x_t, t, left=left):
            left.append(int((x_t == 2).sum()))
            return torch.zeros(*x_t.shape, 3)

        denoiser = NetworkDenoiser(network, PROBLEM.diffusion)
        SAMPLER.sample(denoiser, Canvas.empty((1, length)), n)
        assert left == list(itertools.accumulate(shares[:-1], int.__sub__, initial=length))


def test_a_row_that_is_done_leaves_the_batch():
    sizes = []

    def network(x_t, t, class_labels):
        assert class_labels.tolist() == [7, 8, 9][-len(x_t) :]
        sizes.append(len(x_t))
        return torch.zeros(*x_t.shape, 3)

    tokens = torch.zeros(3, 4, dtype=torch.int64)
    infill = torch.tensor([[True] + [False] * 3, [True] * 2 + [False] * 2, [True] * 4])
    denoiser = NetworkDenoiser(network, PROBLEM.diffusion)
    labels = torch.tensor([7, 8, 9])
    x = SAMPLER.sample(denoiser, Canvas(tokens, infill), 6, class_labels=labels)
    assert sizes == [3, 2, 1, 1] and x.max() < 2


def test_the_time_of_a_call_is_that_at_which_the_next_mask_goes():
    """Of four masks the shares 1 - alpha fall like the order statistics of uniform numbers."""
    diffusion, rows, seen = Diffusion(Absorbing(3), LogLinear(1e-6)), 4000, []

    def network(x_t, t):
        seen.append(t)
        return torch.zeros(*x_t.shape, 3)

    denoiser = NetworkDenoiser(network, diffusion)
    SAMPLER.sample(denoiser, Canvas.empty((rows, 4)), 4, seeded(1)[0])
    shares = -torch.expm1(-diffusion.schedule.sigma(torch.stack(seen)))
    assert (shares.diff(dim=0) < 0).all()
    expected = torch.tensor([4, 3, 2, 1]).double() / 5
    torch.testing.assert_close(shares.mean(1), expected, rtol=0, atol=0.012)
    deviation = (expected * (1 - expected) / 6).sqrt()
    torch.testing.assert_close(shares.std(1), deviation, rtol=0.05, atol=0)
    seen.clear()
    SAMPLER.sample(denoiser, Canvas.empty((rows, 4)), 2, seeded(2)[0])
    shares = -torch.expm1(-diffusion.schedule.sigma(torch.stack(seen)))
    torch.testing.assert_close(shares.mean(1), expected[[0, 2]], rtol=0, atol=0.012)
    seen.clear()
    SAMPLER.sample(replace(denoiser, reads_time=None), Canvas.empty((1, 4)), 4)
    assert seen == [None] * 4


def test_a_process_without_masks_that_reveal_is_refused():
    with pytest.raises(ValueError, match="'first_hitting' reveals masks.*not under Hybrid"):
        SAMPLER.check(Diffusion(Hybrid(4)))
