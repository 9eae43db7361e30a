"""Metrics, the judge of digits, and the frontier. About 15 s of one core: judges are trained."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from hf_ddistill import evaluation
from hf_ddistill.evaluation import (
    DigitsJudge,
    FrechetDistance,
    GenerativePerplexity,
    TokenDiversity,
    class_entropy,
    corpus_entropy,
    frechet_distance,
    generative_perplexity,
    judge_real,
    judge_samples,
    load_digit_tokens,
    match_entropy,
    nearest_distance,
    nfe_frontier,
    split_digits,
    token_entropy,
    unique_fraction,
)

VOCABULARY = 12
WORDS = ["<s>", "a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k"]


def random_generator(seed=0):
    return torch.Generator().manual_seed(seed)


def with_moments(mean, covariance, num_samples=200, seed=0):
    """Samples whose sample mean and unbiased sample covariance are exactly the given ones."""
    noise = torch.randn(
        num_samples, len(mean), dtype=torch.float64, generator=random_generator(seed)
    )
    noise = noise - noise.mean(0)
    white = torch.linalg.solve_triangular(
        torch.linalg.cholesky(torch.cov(noise.T)), noise.T, upper=False
    )
    return (torch.linalg.cholesky(covariance) @ white).T + mean


def random_covariance(size, seed):
    root = torch.randn(size, size, dtype=torch.float64, generator=random_generator(seed))
    return root @ root.T + 0.1 * torch.eye(size, dtype=torch.float64)


# --- Fréchet distance ---------------------------------------------------------------------------


def test_frechet_distance_of_gaussians_is_the_closed_form():
    eye = torch.eye(3, dtype=torch.float64)
    mean_a, mean_b = eye[0] * 2, eye[1]
    scales = torch.tensor([0.25, 4.0, 9.0], dtype=torch.float64)
    a = with_moments(mean_a, eye, seed=1)
    b = with_moments(mean_b, torch.diag(scales), num_samples=150, seed=2)
    # |m_a - m_b|^2 = 5, and (1 - .5)^2 + (1 - 2)^2 + (1 - 3)^2 = 5.25
    assert frechet_distance(a, b) == pytest.approx(10.25, abs=1e-10)


def test_frechet_distance_of_covariances_that_do_not_commute():
    zero = torch.zeros(5, dtype=torch.float64)
    cov_a, cov_b = random_covariance(5, 1), random_covariance(5, 2)
    assert (cov_a @ cov_b - cov_b @ cov_a).abs().max() > 0.1
    eigenvalues = np.linalg.eigvals((cov_a @ cov_b).numpy())
    expected = float(cov_a.trace() + cov_b.trace()) - 2 * np.sqrt(eigenvalues.real).sum()
    a, b = with_moments(zero, cov_a, seed=3), with_moments(zero, cov_b, seed=4)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("num_samples", [6, 500])
def test_frechet_distance_is_zero_on_itself_and_symmetric_also_when_singular(num_samples):
    a = torch.randn(num_samples, 20, generator=random_generator(0))
    b = torch.randn(num_samples, 20, generator=random_generator(1)) * 2 + 1
    assert 0 <= frechet_distance(a, a) < 1e-6
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-10)
    assert frechet_distance(a, b) > 10


def test_frechet_metric_agrees_with_the_function(tmp_path):
    a, b = torch.randn(30, 4), torch.randn(30, 4) + 1
    metric = FrechetDistance(cache_dir=str(tmp_path))
    expected = pytest.approx(frechet_distance(a, b), rel=1e-12)
    assert metric.compute(predictions=a.tolist(), references=b.tolist())["fd"] == expected
    for rows_a, rows_b in zip(a.split(10), b.split(10), strict=True):
        metric.add_batch(predictions=rows_a.numpy(), references=rows_b.numpy())
    assert metric.compute()["fd"] == expected


def test_frechet_distance_refuses_what_has_no_covariance(tmp_path):
    good = torch.randn(5, 3)
    with pytest.raises(ValueError, match="at least 2 samples"):
        frechet_distance(good[:1], good)
    with pytest.raises(ValueError, match="features_b with NaN"):
        frechet_distance(good, good.clone().fill_(math.nan))
    with pytest.raises(ValueError, match="3 features in features_a and 2 in features_b"):
        frechet_distance(good, good[:, :2])
    metric = FrechetDistance(cache_dir=str(tmp_path))
    with pytest.raises(ValueError, match="Mismatch in the number"):
        metric.compute(predictions=good.tolist(), references=good[:4].tolist())
    metric = FrechetDistance(cache_dir=str(tmp_path))
    with pytest.raises(ValueError, match=r"lengths \[1, 2\]"):
        metric.compute(predictions=[[1.0, 2.0], [1.0]], references=[[1.0, 2.0], [1.0]])


# --- Diversity ----------------------------------------------------------------------------------


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


# --- Generative perplexity ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def llama():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=16,
            initializer_range=0.5,  # far from uniform, so that the context matters
            bos_token_id=0,
            eos_token_id=None,
        )
        return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def words():
    tokenizer = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<s>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", unk_token="<s>")


def nll_by_hand(model, row):
    """One token at a time, each from a forward pass over its own prefix."""
    total = 0.0
    with torch.no_grad():
        for i in range(1, len(row)):
            logits = model(input_ids=torch.tensor([row[:i]])).logits[0, -1].double()
            total -= float(logits.log_softmax(-1)[row[i]])
    return total


def test_generative_perplexity_is_the_hand_computed_nll(llama):
    rows = torch.randint(0, VOCABULARY, (5, 7), generator=random_generator()).tolist()
    found = generative_perplexity(llama, torch.tensor(rows), batch_size=2)
    nll = sum(nll_by_hand(llama, row) for row in rows) / (5 * 6)
    assert found["scored_tokens"] == 30
    assert found["nll"] == pytest.approx(nll, rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(nll), rel=1e-5)
    assert found["entropy"] == pytest.approx(token_entropy(torch.tensor(rows)))


def test_a_start_token_makes_the_first_token_scored_and_nothing_else_change(llama):
    rows = torch.randint(1, VOCABULARY, (4, 6), generator=random_generator()).tolist()
    found = generative_perplexity(llama, torch.tensor(rows), bos_token_id=0)
    nll = sum(nll_by_hand(llama, [0, *row]) for row in rows) / 24
    assert found["scored_tokens"] == 24
    assert found["nll"] == pytest.approx(nll, rel=1e-5)
    assert found["entropy"] == pytest.approx(token_entropy(torch.tensor(rows)))


def test_a_judge_that_knows_nothing_gives_the_vocabulary_size(llama):
    blind = LlamaForCausalLM(llama.config).eval()
    torch.nn.init.zeros_(blind.lm_head.weight)
    tokens = torch.randint(0, VOCABULARY, (3, 5), generator=random_generator())
    assert generative_perplexity(blind, tokens)["perplexity"] == pytest.approx(VOCABULARY)


@pytest.mark.parametrize("positions", ["rotary", "absolute"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_and_batching_do_not_change_the_perplexity(llama, positions, side):
    model = llama
    if positions == "absolute":
        model = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=VOCABULARY,
                n_positions=16,
                n_embd=16,
                n_layer=2,
                n_head=2,
                initializer_range=0.5,
                bos_token_id=0,
                eos_token_id=0,
            )
        )
    rows = [[1, 2, 3, 4, 5, 6], [7, 8], [9, 10, 11, 1], [5]]
    expected = sum(nll_by_hand(model.eval(), row) for row in rows) / (5 + 1 + 3)
    pads = [[11] * (6 - len(row)) for row in rows]  # a real token's id, so that a leak shows
    pairs = list(zip(rows, pads, strict=True))
    padded = [pad + row if side == "left" else row + pad for row, pad in pairs]
    masks = [[0] * len(pad) + [1] * len(row) for row, pad in pairs]
    masks = masks if side == "left" else [mask[::-1] for mask in masks]
    for batch_size in (1, 4):
        found = generative_perplexity(
            model, torch.tensor(padded), torch.tensor(masks), batch_size=batch_size
        )
        assert found["scored_tokens"] == 9
        assert found["nll"] == pytest.approx(expected, rel=1e-5)


def test_dropout_of_a_judge_in_training_mode_is_off_and_its_mode_kept():
    config = GPT2Config(vocab_size=VOCABULARY, n_embd=16, n_layer=1, n_head=2, resid_pdrop=0.5)
    config.bos_token_id = config.eos_token_id = 0
    model = GPT2LMHeadModel(config).train()
    tokens = torch.randint(0, VOCABULARY, (3, 6), generator=random_generator())
    assert generative_perplexity(model, tokens) == generative_perplexity(model, tokens)
    assert model.training


def test_metric_of_texts_is_the_metric_of_their_tokens(llama, words, tmp_path):
    texts, ids = ["a b c d", "k k", "e f g"], [[1, 2, 3, 4], [11, 11], [5, 6, 7]]
    nll = sum(nll_by_hand(llama, row) for row in ids) / 6
    metric = GenerativePerplexity(llama, words, cache_dir=str(tmp_path))
    of_texts = metric.compute(predictions=texts)
    assert of_texts["nll"] == pytest.approx(nll, rel=1e-5)
    assert of_texts == metric.compute(predictions=ids)
    assert of_texts["entropy"] == pytest.approx((math.log(4) + 0 + math.log(3)) / 3)
    started = GenerativePerplexity(llama, words, add_start_token=True, cache_dir=str(tmp_path))
    nll = sum(nll_by_hand(llama, [0, *row]) for row in ids) / 9
    assert started.compute(predictions=texts)["nll"] == pytest.approx(nll, rel=1e-5)


def test_metric_loads_model_and_tokenizer_by_path(llama, words, tmp_path):
    llama.save_pretrained(tmp_path / "judge")
    words.save_pretrained(tmp_path / "judge")
    by_path = GenerativePerplexity(str(tmp_path / "judge"), cache_dir=str(tmp_path))
    by_object = GenerativePerplexity(llama, words, cache_dir=str(tmp_path))
    texts = ["a b c d", "e f g"]
    assert by_path.compute(predictions=texts) == by_object.compute(predictions=texts)


def test_repetition_is_never_reported_without_its_entropy(llama, tmp_path):
    metric = GenerativePerplexity(llama, cache_dir=str(tmp_path))
    found = metric.compute(predictions=[[3] * 10] * 4)
    assert {"perplexity", "entropy", "corpus_entropy"} <= set(found)
    assert found["entropy"] == 0


def test_generative_perplexity_refuses_what_it_cannot_score(llama, tmp_path):
    with pytest.raises(ValueError, match="one token each"):
        generative_perplexity(llama, torch.tensor([[1], [2]]))
    with pytest.raises(ValueError, match=r"from 1 to 12; LlamaForCausalLM knows \[0, 12\)"):
        generative_perplexity(llama, torch.tensor([[1, 12]]))
    with pytest.raises(ValueError, match="reads at most 16"):
        generative_perplexity(llama, torch.ones(1, 17, dtype=torch.int64))
    with pytest.raises(ValueError, match="without a token"):
        generative_perplexity(llama, torch.ones(2, 3).long(), torch.tensor([[1] * 3, [0] * 3]))
    with pytest.raises(ValueError, match="no tokenizer"):
        GenerativePerplexity(llama, cache_dir=str(tmp_path)).compute(predictions=["a b"])
    no_start = LlamaForCausalLM(LlamaConfig(**{**llama.config.to_dict(), "bos_token_id": None}))
    with pytest.raises(ValueError, match="no bos_token_id"):
        GenerativePerplexity(no_start, add_start_token=True, cache_dir=str(tmp_path))


@pytest.mark.parametrize("metric", [FrechetDistance, TokenDiversity, GenerativePerplexity])
def test_every_metric_says_what_it_is_and_whom_to_cite(metric, llama, tmp_path):
    arguments = (llama,) if metric is GenerativePerplexity else ()
    info = metric(*arguments, cache_dir=str(tmp_path)).info
    assert "arXiv:" in info.citation and info.description and info.inputs_description
    assert metric.__name__ in evaluation.__all__


# --- The judge of digits ------------------------------------------------------------------------


fit_once = functools.cache(DigitsJudge.fit)


@pytest.fixture(params=[2, 17])
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
    with pytest.raises(ValueError, match="levels=16"):
        load_digit_tokens(16)


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


def test_training_is_deterministic_and_leaves_global_state(binary_judge):
    torch.manual_seed(123)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    with torch.no_grad():  # a caller's no_grad must not stop the training
        again = DigitsJudge.fit(2)
    assert torch.equal(torch.get_rng_state(), before) and torch.get_num_threads() == threads
    tokens = load_digit_tokens(2)[0]
    assert torch.equal(again.features(tokens), binary_judge.features(tokens))
    assert not torch.equal(DigitsJudge.fit(2, seed=1).features(tokens), again.features(tokens))


def test_saved_judge_is_the_same_judge(judge, tmp_path):
    judge.save(tmp_path / "made" / "judge")
    before = torch.get_rng_state()
    loaded = DigitsJudge.load(tmp_path / "made" / "judge")
    assert torch.equal(torch.get_rng_state(), before)
    tokens = load_digit_tokens(judge.levels)[0]
    assert torch.equal(loaded.probabilities(tokens), judge.probabilities(tokens))
    assert (loaded.levels, loaded.accuracy) == (judge.levels, judge.accuracy)
    with pytest.raises(FileNotFoundError, match="DigitsJudge.fit"):
        DigitsJudge.load(tmp_path)


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


# --- The frontier -------------------------------------------------------------------------------


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
