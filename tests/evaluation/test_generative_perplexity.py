"""Perplexity under a judge, against one forward pass per token."""

from __future__ import annotations

import math

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
    FrechetDistance,
    GenerativePerplexity,
    TokenDiversity,
    generative_perplexity,
    token_entropy,
)

VOCABULARY = 12
WORDS = ["<s>", "a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k"]


def random_generator(seed=0):
    return torch.Generator().manual_seed(seed)


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
