"""Bounds and scores of given sequences, against laws that are known exactly."""

from __future__ import annotations

import math

import pytest
import torch
from small_laws import problem

from hf_ddistill import Absorbing, Diffusion, Hybrid, LogLinear, Uniform
from hf_ddistill.evaluation import any_order_log_probability, likelihood_bound, mutation_scores
from hf_ddistill.evaluation.likelihood import masks_in_blocks
from hf_ddistill.laboratory import clean_sequences
from hf_ddistill.laboratory.blocks.tables import block_table
from hf_ddistill.linalg import categorical

K = 4


def law(process):
    return problem(Diffusion(process, LogLinear()), seed=3)


def drawn(known, count):
    generator = torch.Generator().manual_seed(0)
    return known.sequences[categorical(known.law.expand(count, -1), generator)]


@pytest.mark.parametrize("process", [Absorbing(K), Uniform(K), Hybrid(K)], ids=lambda p: p.id)
def test_the_bound_of_an_exact_denoiser_is_not_the_entropy(process):
    known = law(process)
    rows = drawn(known, 1500)
    bound = likelihood_bound(
        known.denoiser(), ({"input_ids": part} for part in rows.split(400)), draws=4
    )
    assert bound.tokens == rows.numel() and bound.rows == 1500
    entropy = known.entropy / known.length
    # The schedule leaves a thousandth of the data at t = 1, which the bound does not count.
    assert abs(bound.nats - entropy) < 4 * bound.standard_error + 0.01
    assert 0 < bound.standard_error < 0.05 * entropy
    assert bound.bits == pytest.approx(bound.nats / math.log(2))
    assert bound.perplexity == pytest.approx(math.exp(bound.nats))


def test_the_error_of_a_bound_is_not_that_of_repeated_measurements():
    known = law(Absorbing(K))
    rows = drawn(known, 2000)
    each = [
        likelihood_bound(known.denoiser(), [{"input_ids": part}], seed=seed)
        for seed, part in enumerate(rows.split(50))
    ]
    spread = torch.tensor([bound.nats for bound in each]).std().item()
    said = torch.tensor([bound.standard_error for bound in each]).mean().item()
    assert said == pytest.approx(spread, rel=0.4)


def test_a_bound_hangs_on_the_batch():
    known = law(Uniform(K))
    rows = drawn(known, 24)
    whole, parts = (
        likelihood_bound(known.denoiser(), [{"input_ids": p} for p in rows.split(size)], seed=5)
        for size in (24, 7)
    )
    assert whole.nats == pytest.approx(parts.nats, rel=1e-12)


def test_padding_is_counted():
    known = law(Absorbing(K))
    rows = drawn(known, 6)
    real = torch.ones_like(rows)
    real[:, -1] = 0
    batch = {"input_ids": rows, "labels": rows.where(real.bool(), -100)}
    assert likelihood_bound(known.denoiser(), [batch]).tokens == 6 * (known.length - 1)
    with pytest.raises(ValueError, match="no tokens"):
        likelihood_bound(known.denoiser(), [])


def test_a_row_without_tokens_makes_a_bound_look_certain():
    known = law(Absorbing(K))
    batch = {"input_ids": drawn(known, 2), "attention_mask": torch.tensor([[1] * 3, [0] * 3])}
    bound = likelihood_bound(known.denoiser(), [batch])
    assert bound.rows == 1 and math.isnan(bound.standard_error)


def test_tokens_of_a_block_do_not_weigh_one_each():
    real = torch.ones(4000, 6, dtype=torch.bool)
    real[:, -1] = False
    share = torch.linspace(0, 1, 4001)[:-1, None].double()
    where, weight = masks_in_blocks(real, share, 3, torch.Generator().manual_seed(0))
    mean = (where * weight).mean(0)
    assert torch.allclose(mean[:5], torch.ones(5).double(), atol=0.06) and mean[5] == 0
    assert int(where[:, :3].sum(1).min()) == 1 and int(where[:, :3].sum(1).max()) == 3


def test_a_sequence_has_another_probability_in_some_order():
    known = law(Absorbing(K))
    rows = known.sequences[known.law > 0][:7]
    scores = any_order_log_probability(
        known.denoiser(), rows, orders=5, generator=torch.Generator().manual_seed(1)
    )
    truth = known.law[known.law > 0][:7].log()
    assert scores.shape == (5, 7)
    torch.testing.assert_close(scores, truth.expand(5, 7), rtol=0, atol=1e-8)


def test_what_is_given_is_scored():
    known = law(Absorbing(K))
    rows = known.sequences[known.law > 0][:5]
    real = torch.ones_like(rows, dtype=torch.bool)
    real[:, 0] = False
    scores = any_order_log_probability(known.denoiser(), rows, real=real)[0]
    first = rows[:, 0, None] == known.sequences[None, :, 0]
    given = (first * known.law).sum(1)
    chance = known.law[known.law > 0][:5]
    torch.testing.assert_close(scores, (chance / given).log(), rtol=0, atol=1e-8)


def test_a_block_is_scored_in_sight_of_masks_in_the_blocks_before():
    diffusion = Diffusion(Absorbing(3), LogLinear())
    law = torch.randn(16, generator=torch.Generator().manual_seed(2)).double().softmax(0)
    rows = clean_sequences(diffusion, 4)
    scores = any_order_log_probability(
        block_table(law, 2, diffusion).denoiser(), rows, orders=3, block_size=2
    )
    torch.testing.assert_close(scores, law.log().expand(3, 16), rtol=0, atol=1e-8)


class Watched:
    """A denoiser of time and noise that keeps what it was asked."""

    needs_time = True

    def __init__(self, inner):
        self.inner, self.diffusion = inner, inner.diffusion
        self.times, self.conditions, self.generators = [], [], []

    def fresh_noise(self, x_t, generator=None):
        self.generators.append(generator)
        return {}

    def at(self, x_t, t, places, **condition):
        self.times.append(t.tolist())
        self.conditions.append(condition)
        return self.inner.at(x_t, t, places, **condition)


def test_a_score_forgets_class_or_seed_and_counts_padding_as_time():
    known = law(Absorbing(K))
    rows, watched = known.sequences[known.law > 0][:2], Watched(known.denoiser())
    real = torch.ones_like(rows, dtype=torch.bool)
    real[1, 1:] = False
    generator, classes = torch.Generator().manual_seed(0), torch.arange(2)
    any_order_log_probability(watched, rows, real=real, generator=generator, class_labels=classes)
    assert [c["class_labels"] is classes for c in watched.conditions] == [True] * known.length
    assert watched.times[0][0] == pytest.approx(watched.times[0][1])
    mutation_scores(watched, rows[0], generator=generator)
    assert all(given is generator for given in watched.generators)


def test_the_score_of_a_mutation_is_no_ratio_of_conditionals():
    known = law(Absorbing(K))
    row = known.sequences[int(known.law.argmax())]
    scores = mutation_scores(known.denoiser(), row, batch_size=2)
    assert scores.shape == (known.length, K)
    chances = {tuple(s.tolist()): float(p) for s, p in zip(known.sequences, known.law, strict=True)}
    for position in range(known.length):
        for token in range(K - 1):
            other = row.tolist()
            other[position] = token
            ratio = chances.get(tuple(other), 0.0) / chances[tuple(row.tolist())]
            if ratio > 0:
                assert float(scores[position, token]) == pytest.approx(math.log(ratio), abs=1e-8)


def test_a_process_without_masks_is_scored():
    for process in (Uniform(K), Hybrid(K)):
        known = law(process)
        for score in (any_order_log_probability, mutation_scores):
            with pytest.raises(ValueError, match=f"'{process.id}' is not of masks alone"):
                score(known.denoiser(), known.sequences[0])
    with pytest.raises(ValueError, match="orders must be at least 1"):
        any_order_log_probability(law(Absorbing(K)).denoiser(), known.sequences, orders=0)
    with pytest.raises(ValueError, match="One sequence"):
        mutation_scores(law(Absorbing(K)).denoiser(), known.sequences)
