"""The frontier, and samplers matched by their entropy."""

from __future__ import annotations

import math

import pytest
import torch

from hf_ddistill.evaluation import (
    match_entropy,
    nfe_frontier,
    token_entropy,
    unique_fraction,
)


def random_generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_frontier_judges_each_number_of_calls_once_and_in_order():
    calls = []

    def sampler(nfe, num_samples):
        calls.append((nfe, num_samples))
        return torch.arange(num_samples)[:, None] % nfe

    rows = nfe_frontier(sampler, [4, 1, 2], 8, lambda x: {"unique": unique_fraction(x)})
    assert calls == [(4, 8), (1, 8), (2, 8)]
    assert rows == [
        {"nfe": 4, "unique": 0.5},
        {"nfe": 1, "unique": 0.125},
        {"nfe": 2, "unique": 0.25},
    ]


def test_frontier_refuses_what_would_make_rows_that_cannot_be_compared():
    def sampler(nfe, num_samples):
        return torch.zeros(7, 3, dtype=torch.int64)

    for nfes in ([], [0, 1], [2, 2]):
        with pytest.raises(ValueError, match="distinct numbers of calls"):
            nfe_frontier(sampler, nfes, 7, lambda x: {})
    with pytest.raises(ValueError, match="for 8 samples, got 7"):
        nfe_frontier(sampler, [1], 8, lambda x: {})
    with pytest.raises(ValueError, match='called "nfe"'):
        nfe_frontier(sampler, [1], 7, lambda x: {"nfe": 3})
    with pytest.raises(ValueError, match="num_samples=0"):
        nfe_frontier(sampler, [1], 0, lambda x: {})


def law_at(temperature):
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, -3.0], dtype=torch.float64)
    return (logits / temperature).softmax(-1)


def exact_entropy(law):
    return float(torch.special.entr(law).sum())


@pytest.mark.parametrize("temperature", [0.4, 1.0, 1.7])
def test_entropy_matching_recovers_a_known_temperature(temperature):
    found = match_entropy(
        law_at,
        exact_entropy(law_at(temperature)),
        budget=30,
        tolerance=0.0,
        entropy=exact_entropy,
    )
    assert found.temperature == pytest.approx(temperature, rel=1e-6)
    assert found.entropy == pytest.approx(exact_entropy(law_at(found.temperature)))


def test_entropy_matching_works_on_sampled_tokens():
    def draw(temperature, seed):
        law = law_at(temperature).expand(400, 5)
        return law.multinomial(64, replacement=True, generator=random_generator(seed))

    student = token_entropy(draw(0.7, seed=1))
    found = match_entropy(lambda temperature: draw(temperature, seed=2), student)
    assert found.temperature == pytest.approx(0.7, abs=0.03)
    assert found.entropy == pytest.approx(student, abs=0.01)


def test_entropy_matching_keeps_to_its_budget_and_stops_when_it_is_close():
    tried = []

    def sample(temperature):
        tried.append(temperature)
        return law_at(temperature)

    target = exact_entropy(law_at(0.9))
    found = match_entropy(sample, target, budget=6, tolerance=0.0, entropy=exact_entropy)
    assert len(tried) == 6
    gaps = {t: abs(exact_entropy(law_at(t)) - target) for t in tried}
    assert found.temperature == min(gaps, key=gaps.get)
    tried.clear()
    match_entropy(sample, target, budget=30, tolerance=0.05, entropy=exact_entropy)
    assert len(tried) < 8


def test_entropy_matching_says_when_the_target_is_out_of_reach():
    with pytest.raises(ValueError, match="widen low and high"):
        match_entropy(law_at, 2.0, entropy=exact_entropy)
    with pytest.raises(ValueError, match="0 < low < high"):
        match_entropy(law_at, 1.0, low=0.0, entropy=exact_entropy)
    with pytest.raises(ValueError, match="finite target"):
        match_entropy(law_at, math.nan, entropy=exact_entropy)
