"""The law of a random order, by all its draws."""

from __future__ import annotations

import itertools
from collections import defaultdict

import pytest
import torch
from exact_bayes import ExactBayes

from hf_ddistill.diffusion import Diffusion
from hf_ddistill.laboratory.branching import outcomes
from hf_ddistill.laboratory.branching_law import branching_law
from hf_ddistill.processes import Absorbing
from hf_ddistill.samplers import UnmaskingSampler
from hf_ddistill.unmasking import Draft, PlackettLuce, set_log_probability

MASKED = torch.tensor([[True, True, False, True, True], [False, True, True, False, False]])


@pytest.mark.parametrize("calls", [1, 2, 3])
def test_draws_that_are_enumerated_give_a_set_another_probability(calls):
    torch.manual_seed(0)
    raw, rule = (2 * torch.randn(2, 5, 3).double()).log_softmax(-1), PlackettLuce(0.3)

    def run(rows, generator):
        return rule(Draft(None, raw[rows], None, MASKED[rows], 0, calls, generator=generator))

    for row in range(2):
        found, due = defaultdict(float), -(-int(MASKED[row].sum()) // calls)
        start = torch.zeros(2, dtype=torch.float64)
        start[row] = 1.0
        for weight, picked in outcomes(run, start, 4096):
            for w, each in zip(weight.tolist(), picked.tolist(), strict=True):
                found[tuple(each)] += w
        for places in itertools.combinations(MASKED[row].nonzero()[:, 0].tolist(), due):
            chosen = torch.zeros(5, dtype=torch.bool)
            chosen[list(places)] = True
            p = set_log_probability(rule.scores(raw[row]), chosen, MASKED[row]).exp()
            assert found.pop(tuple(chosen.tolist())) == pytest.approx(float(p), abs=1e-8)
        assert sum(found.values()) == 0.0, "other numbers of positions were drawn"


def test_the_law_of_the_sampler_is_not_that_of_all_orders():
    problem, rule = ExactBayes.random(Diffusion(Absorbing(3)), 3, seed=4), PlackettLuce(0.2)
    denoiser, mask = problem.denoiser(), 2
    law = {(mask,) * 3: 1.0}
    for call in range(3):
        after = defaultdict(float)
        for state, mass in law.items():
            log_p = denoiser(torch.tensor([state]), 1 - call / 3).log_conditional[0]
            open_ = [i for i in range(3) if state[i] == mask]
            turns = rule.scores(log_p)[open_].softmax(-1)
            for (i, turn), token in itertools.product(zip(open_, turns, strict=True), range(2)):
                drawn = (*state[:i], token, *state[i + 1 :])
                after[drawn] += mass * float(turn * log_p[i, token].double().exp())
        law = after
    found = branching_law(denoiser, UnmaskingSampler(rule), 3, [1.0, 2 / 3, 1 / 3, 0.0])
    states = itertools.product(range(3), repeat=3)
    expected = torch.tensor([law.get(x, 0.0) for x in states], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-8)
