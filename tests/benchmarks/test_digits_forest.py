"""What is said of the spread of digits: ink, and samples that are chosen by it."""

from __future__ import annotations

import pytest
import torch
from digits_forest import DRAW, even_ink, spread

from hf_ddistill.evaluation import DigitSplit

pytestmark = pytest.mark.usefixtures("registries_of_their_own")


def pixels(count, seed, widths):
    """Rows of which a part is set that differs between rows; row i is of class i mod 10."""
    generator = torch.Generator().manual_seed(seed)
    share = torch.tensor(widths)[torch.randint(len(widths), (count, 1), generator=generator)]
    return (torch.rand(count, 64, generator=generator) < share).long()


def test_ink_is_spread_by_what_pixels_share():
    labels = torch.arange(4000) % 10
    even, uneven = (spread(pixels(4000, 0, each), labels) for each in ([0.5], [0.3, 0.7]))
    assert even["ink_sd"] == pytest.approx(4, abs=0.2) and uneven["ink_sd"] > 7
    for one in (even, uneven):
        of_sums = one["variance"] + one["near"] + one["far"]
        assert of_sums == pytest.approx(one["ink_sd"] ** 2, rel=1e-6)
    assert spread(torch.zeros(4, 64).long().repeat(10, 1), labels[:40])["repeats"] == 39 / 40


def test_samples_are_chosen_to_have_the_ink_of_the_training_digits():
    real, samples = pixels(4000, 1, [0.45, 0.55]), pixels(4000, 2, [0.5])
    labels = torch.arange(4000) % 10
    split = DigitSplit(real, labels, real[:0], labels[:0])
    chosen = even_ink(samples, split, 0)
    assert chosen.shape == (DRAW, 64)
    before, after, meant = (float(x.sum(1).double().std()) for x in (samples, chosen, real))
    assert before < after < meant * 1.05 and after - before > (meant - before) / 2
