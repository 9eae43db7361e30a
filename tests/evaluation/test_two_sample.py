"""The forest that tries to tell samples from real rows."""

import pytest
import torch

from hf_ddistill.evaluation import (
    DigitsClassifier,
    digit_figures,
    load_digit_tokens,
    real_figures,
    split_digits,
    two_sample_auc,
)


@pytest.fixture(scope="module")
def digits():
    tokens = split_digits(*load_digit_tokens(2)).train_tokens
    return tokens[torch.randperm(len(tokens), generator=torch.Generator().manual_seed(0))]


@pytest.mark.slow
def test_two_halves_of_one_law_cannot_be_told_apart(digits):
    assert abs(two_sample_auc(digits[:748], digits[748:]) - 0.5) < 0.05


def test_marginals_without_their_correlations_are_told_from_real_digits(digits):
    """What a model in one call draws: each pixel right, and no pixel knows of another."""
    columns = [column[torch.randperm(400)] for column in digits[:400].T]
    assert two_sample_auc(torch.stack(columns, 1), digits[400:800]) > 0.85


def test_samples_that_are_all_alike_are_told_although_each_is_a_real_digit(digits):
    alike = digits[:20].repeat(20, 1)
    assert two_sample_auc(alike, digits[400:800]) > 0.9


def test_rows_that_cannot_be_compared_are_refused(digits):
    with pytest.raises(ValueError, match="one length"):
        two_sample_auc(digits[:100, :60], digits[:100])
    with pytest.raises(ValueError, match="at least 10 rows"):
        two_sample_auc(digits[:5], digits[:100])


@pytest.mark.slow
def test_real_digits_are_measured_by_the_same_figures_as_samples(digits):
    split, judge = split_digits(*load_digit_tokens(2)), DigitsClassifier.fit(2)
    real, drawn = real_figures(judge, split, 200), digit_figures(judge, digits[:200], digits)
    assert real.keys() == drawn.keys() and "auc" in real
    assert "auc" not in digit_figures(judge, digits[:9], digits)
