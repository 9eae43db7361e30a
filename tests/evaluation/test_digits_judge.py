"""The judge of digits; judges are trained."""

from __future__ import annotations

import functools
import math

import pytest
import torch

from hf_ddistill.evaluation import (
    DigitsClassifier,
    frechet_distance,
    judge_real,
    judge_samples,
    load_digit_tokens,
    split_digits,
)


def random_generator(seed=0):
    return torch.Generator().manual_seed(seed)


fit_once = functools.cache(DigitsClassifier.fit)


@pytest.fixture(params=[2, pytest.param(17, marks=pytest.mark.slow)])
def judge(request):
    return fit_once(request.param)


@pytest.fixture
def binary_judge():
    return fit_once(2)


def test_digit_tokens_are_the_levels_that_were_asked_for():
    binary, labels = load_digit_tokens(2)
    raw, same_labels = load_digit_tokens(17)
    assert binary.shape == raw.shape == (1797, 64) and binary.dtype == raw.dtype == torch.int64
    assert binary.unique().tolist() == [0, 1] and raw.unique().tolist() == list(range(17))
    assert torch.equal(binary, (raw > 7).long()) and torch.equal(labels, same_labels)
    four = load_digit_tokens(4)[0]
    assert [int(raw[four == level].max()) for level in range(4)] == [4, 8, 12, 16]
    with pytest.raises(ValueError, match="levels=18"):
        load_digit_tokens(18)


def test_split_holds_out_a_sixth_of_every_class_and_leaks_nothing():
    tokens, labels = load_digit_tokens(17)
    split = split_digits(torch.arange(1797)[:, None], labels)
    assert len(split.train_tokens) == 1497 and len(split.held_out_tokens) == 300
    rows = torch.cat([split.train_tokens, split.held_out_tokens])[:, 0]
    assert torch.equal(rows.sort().values, torch.arange(1797))
    share = split.held_out_labels.bincount() / labels.bincount()
    assert (share - 1 / 6).abs().max() < 0.01
    again = split_digits(torch.arange(1797)[:, None], labels)
    assert torch.equal(split.held_out_tokens, again.held_out_tokens)
    other = split_digits(torch.arange(1797)[:, None], labels, seed=1)
    assert not torch.equal(split.held_out_tokens, other.held_out_tokens)


def test_judge_names_held_out_digits(judge):
    split = split_digits(*load_digit_tokens(judge.levels))
    probs = judge.probabilities(split.held_out_tokens)
    right = (probs.argmax(-1) == split.held_out_labels).double().mean()
    assert judge.accuracy == float(right) > 0.92
    assert torch.allclose(probs.sum(-1), torch.ones(300, dtype=torch.float64))
    assert judge.features(split.held_out_tokens).shape == (300, 32)


@pytest.mark.slow
def test_training_is_deterministic_and_leaves_global_state(binary_judge):
    torch.manual_seed(123)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    with torch.no_grad():  # a caller's no_grad must not stop the training
        again = DigitsClassifier.fit(2)
    assert torch.equal(torch.get_rng_state(), before) and torch.get_num_threads() == threads
    tokens = load_digit_tokens(2)[0]
    assert torch.equal(again.features(tokens), binary_judge.features(tokens))
    assert not torch.equal(DigitsClassifier.fit(2, seed=1).features(tokens), again.features(tokens))


def test_saved_judge_is_the_same_judge(judge, tmp_path):
    judge.save(tmp_path / "made" / "judge")
    before = torch.get_rng_state()
    loaded = DigitsClassifier.load(tmp_path / "made" / "judge")
    assert torch.equal(torch.get_rng_state(), before)
    tokens = load_digit_tokens(judge.levels)[0]
    assert torch.equal(loaded.probabilities(tokens), judge.probabilities(tokens))
    assert (loaded.levels, loaded.accuracy) == (judge.levels, judge.accuracy)
    with pytest.raises(FileNotFoundError, match="DigitsClassifier.fit"):
        DigitsClassifier.load(tmp_path)


def test_real_digits_are_near_real_digits_and_far_from_shuffled_pixels(judge):
    tokens, _ = load_digit_tokens(judge.levels)
    half, other = tokens[::2], tokens[1::2]
    shuffle = torch.rand(other.shape, generator=random_generator()).argsort(1)
    near = frechet_distance(judge.features(half), judge.features(other))
    far = frechet_distance(judge.features(half), judge.features(other.gather(1, shuffle)))
    assert 0 < near < 0.2
    assert far > 20 * near


def test_copies_of_the_training_data_are_seen_as_copies(judge):
    real = load_digit_tokens(judge.levels)[0]
    found = judge_samples(judge, real, real)
    assert list(found) == ["fd", "confidence", "class_entropy", "unique", "novelty"]
    assert found["fd"] < 1e-5 and found["novelty"] == 0
    assert 0.9 < found["confidence"] <= 1
    assert found["class_entropy"] == pytest.approx(math.log(10), abs=0.01)
    # As many samples, but all of one image: every number says so.
    found = judge_samples(judge, real[:1].expand(500, 64), real)
    assert found["fd"] > 5 and found["class_entropy"] < 0.5 and found["unique"] == 1 / 500


def test_real_digits_set_the_floor_that_samples_are_read_against(binary_judge):
    real = load_digit_tokens(2)[0]
    floor = judge_real(binary_judge, real, generator=random_generator())
    assert 0.05 < floor["fd"] < 0.4
    assert floor["novelty"] == pytest.approx(3.07, abs=0.01)  # leave-one-out, not 0
    noise = torch.randint(0, 2, (900, 64), generator=random_generator())
    found = judge_samples(binary_judge, noise, real)
    assert found["fd"] > 10 * floor["fd"] and found["novelty"] > 3 * floor["novelty"]
    assert found.keys() == floor.keys()


def test_judge_refuses_tokens_that_are_no_pixels(binary_judge):
    samples = load_digit_tokens(2)[0][:4].clone()
    samples[0, 0] = 2
    with pytest.raises(ValueError, match="mask token left"):
        judge_samples(binary_judge, samples, samples)
    with pytest.raises(ValueError, match=r"digits are \(N, 64\)"):
        binary_judge.features(samples[:, :63])
    with pytest.raises(ValueError, match="splits=0"):
        judge_real(binary_judge, samples % 2, splits=0)


def test_real_digits_do_not_look_worse_for_being_fewer(binary_judge):
    """The distance that 300 new digits would have, against that of 300 to the other 1,197."""
    split = split_digits(*load_digit_tokens(2))
    real = split.train_tokens
    told = judge_real(binary_judge, real, splits=20, generator=random_generator(), samples=300)
    found, generator = [], random_generator()
    features = binary_judge.features(real)
    for _ in range(20):
        order = torch.randperm(len(real), generator=generator)
        found.append(frechet_distance(features[order[:300]], features[order[300:]]))
    measured = sum(found) / len(found) * (1 / 300 + 1 / 1497) / (1 / 300 + 1 / 1197)
    assert abs(told["fd"] / measured - 1) < 0.1
