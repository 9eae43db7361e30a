"""Entropies, repetition and copies."""

from __future__ import annotations

import math

import pytest
import torch

from hf_ddistill.evaluation import (
    TokenDiversity,
    class_entropy,
    corpus_entropy,
    nearest_distance,
    token_entropy,
    unique_fraction,
)


def random_generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_entropies_by_hand():
    tokens = torch.tensor([[7, 7, 7, 7], [1, 1, 2, 2], [1, 2, 3, 4]])
    assert token_entropy(tokens) == pytest.approx((0 + math.log(2) + math.log(4)) / 3)
    shares = torch.tensor([4, 3, 3, 1, 1]) / 12
    assert corpus_entropy(tokens) == pytest.approx(float(-(shares * shares.log()).sum()))
    assert unique_fraction(tokens[[0, 0, 1, 2]]) == 0.75


def test_entropy_tells_dull_samples_from_a_varied_corpus():
    """Each sample repeats one token: only the per-sample entropy shows the collapse."""
    tokens = torch.arange(8)[:, None].expand(8, 16)
    assert token_entropy(tokens) == 0
    assert corpus_entropy(tokens) == pytest.approx(math.log(8))


def test_padding_does_not_enter_the_entropies():
    tokens = torch.tensor([[1, 2, 0, 0], [0, 3, 3, 0]])
    mask = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 0]])
    assert token_entropy(tokens, mask) == pytest.approx(math.log(2) / 2)
    assert corpus_entropy(tokens, mask) == pytest.approx(1.5 * math.log(2))
    # The same row once as a sample of zeros and once as padding is not the same sample.
    row = torch.zeros(2, 3, dtype=torch.int64)
    assert unique_fraction(row, torch.tensor([[1, 1, 1], [1, 1, 0]])) == 1.0


def test_diversity_metric_takes_samples_of_different_lengths(tmp_path):
    metric = TokenDiversity(cache_dir=str(tmp_path))
    found = metric.compute(predictions=[[1, 2], [3], [3]])
    assert found["entropy"] == pytest.approx(math.log(2) / 3)
    assert found["corpus_entropy"] == pytest.approx(1.5 * math.log(2))
    assert found["unique"] == pytest.approx(2 / 3)


def test_class_entropy_is_of_the_mean_not_the_mean_of_entropies():
    assert class_entropy(torch.eye(10)) == pytest.approx(math.log(10))
    assert class_entropy(torch.eye(10)[:1].expand(5, 10)) == 0
    with pytest.raises(ValueError, match="not logits"):
        class_entropy(torch.randn(4, 10))


def test_nearest_distance_is_zero_for_copies_and_counts_or_sums_differences():
    reference = torch.tensor([[0, 0, 0], [5, 5, 5]])
    samples = torch.tensor([[5, 5, 5], [0, 0, 9], [4, 4, 5]])
    assert nearest_distance(samples, reference).tolist() == [0, 1, 2]
    assert nearest_distance(samples, reference, distance="l1").tolist() == [0, 9, 2]


@pytest.mark.parametrize("distance", ["hamming", "l1"])
def test_nearest_distance_in_chunks_without_itself_is_the_brute_force(distance):
    rows = torch.randint(0, 4, (23, 9), generator=random_generator())
    difference = (rows[:, None] - rows[None]).abs()
    table = (difference if distance == "l1" else difference != 0).sum(-1).double()
    table.fill_diagonal_(math.inf)
    found = nearest_distance(rows, rows, distance=distance, exclude_self=True, chunk_size=5)
    assert torch.equal(found, table.amin(1))
    assert nearest_distance(rows, rows, chunk_size=5).max() == 0


def test_diversity_refuses_what_it_cannot_measure():
    rows = torch.zeros(3, 4, dtype=torch.int64)
    with pytest.raises(ValueError, match="1 samples without a token"):
        token_entropy(rows, torch.tensor([[1], [0], [1]]).expand(3, 4))
    with pytest.raises(ValueError, match="expected \\(samples, length\\)"):
        token_entropy(rows[0])
    with pytest.raises(ValueError, match="same length"):
        nearest_distance(rows, rows[:, :2])
    with pytest.raises(ValueError, match="the two sets differ"):
        nearest_distance(rows[:2], rows, exclude_self=True)
    with pytest.raises(ValueError, match="0 rows to compare"):
        nearest_distance(rows[:1], rows[:1], exclude_self=True)
    with pytest.raises(ValueError, match="'hamming' and 'l1'"):
        nearest_distance(rows, rows, distance="l2")
