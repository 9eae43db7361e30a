"""What samples share with the data, against a count by hand."""

from __future__ import annotations

import itertools

import pytest
import torch

from hf_ddistill.training.likeness import GRAMS, Rows, likeness


def rows(count, seed, real=6):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(3, (count, 6), generator=generator)
    return Rows(tokens, torch.arange(6).expand(count, 6) < real)


def by_hand(x, y):
    """k of two lists of tokens."""
    shares = []
    for g in GRAMS:
        places = range(len(x) - g + 1)
        shares.append(sum(x[i : i + g] == y[i : i + g] for i in places) / len(places))
    return sum(shares) / len(shares)


def test_distance_is_that_of_all_pairs_one_by_one():
    x, y = rows(5, 0), rows(4, 1)
    one, other = x.tokens.tolist(), y.tokens.tolist()
    pairs = [by_hand(a, b) for a, b in itertools.permutations(one, 2)]
    across = [by_hand(a, b) for a in one for b in other]
    found = likeness(x, y, 3)
    assert found.within == pytest.approx(sum(pairs) / len(pairs))
    assert found.across == pytest.approx(sum(across) / len(across))


def test_padding_agrees_with_nothing():
    x, y = rows(5, 0, real=4), rows(4, 1)
    short = Rows(x.tokens[:, :4], x.where[:, :4])
    found, expected = likeness(x, y, 3), likeness(short, y, 3)
    assert (found.within, found.across, found.spread) == (
        expected.within,
        expected.across,
        expected.spread,
    )
    everywhere = likeness(Rows(x.tokens, torch.ones_like(x.where)), y, 3)
    assert found.within != everywhere.within


def test_samples_of_the_law_of_the_data_are_no_farther_and_collapsed_ones_are():
    data, teacher, alike = rows(200, 0), rows(200, 1), rows(200, 2)
    collapsed = Rows(data.tokens[:1].expand(200, 6), data.where)
    of_data, of_teacher = likeness(data, data, 3), likeness(teacher, data, 3)
    beyond, error = likeness(alike, data, 3).beyond(of_teacher)
    assert abs(beyond) < 2 * error < 0.05
    beyond, error = likeness(collapsed, data, 3).beyond(of_teacher)
    assert beyond > 20 * error
    own, reference = likeness(collapsed, data, 3).shares(of_teacher, of_data)["spread"]
    assert own == 0 and reference == pytest.approx(1.1, abs=0.05)  # log 3
