"""Completions under the original language model: likelihood, variety, exact answers."""

from __future__ import annotations

import math

import pytest
import torch
from completions import (
    Cloze,
    CompletionJudge,
    copy_cloze,
    distinct,
    known_words,
    ngrams,
    word_cloze,
)
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CHARACTERS = "abcdefghijklmnopqrstuvwxyz ."


def character_tokenizer():
    vocab = {c: i for i, c in enumerate(CHARACTERS)}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token=" "))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("[\\s\\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, model_max_length=100
    )


def encode(*texts):
    return torch.tensor([[CHARACTERS.index(c) for c in text] for text in texts])


@pytest.fixture(scope="module")
def judge():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(CHARACTERS),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=32,
        initializer_range=0.5,
    )
    known = frozenset({"state", "union"})
    return CompletionJudge(LlamaForCausalLM(config), character_tokenizer(), known, n=2)


def test_only_drawn_tokens_are_scored_and_each_given_all_before_it(judge):
    tokens = encode("the state of ", "and an union ")
    with torch.no_grad():
        log_p = judge.model(input_ids=tokens).logits.double().log_softmax(-1)
    of_tokens = log_p[:, :-1].gather(-1, tokens[:, 1:, None])[..., 0]
    assert judge(tokens, 9)["nll"] == pytest.approx(-float(of_tokens[:, -9:].mean()), abs=1e-6)


def test_figures_by_hand(judge):
    told = judge(encode("xxx state of a", "xxx union abab"), 11)
    assert told["known_words"] == pytest.approx(2 / 3)  # "of" is not; the last words may be cut
    pairs = ["st ta at te e_ _o of f_ _a", "un ni io on n_ _a ab ba ab"]
    counts = {}
    for pair in (" ".join(pairs) + " _s _u").split():
        counts[pair] = counts.get(pair, 0) + 1
    total = sum(counts.values())
    assert told["distinct"] == pytest.approx(len(counts) / total)
    entropy = -sum(c / total * math.log(c / total) for c in counts.values())
    assert told["ngram_entropy"] == pytest.approx(entropy)


def test_repetition_is_seen_even_where_each_sample_is_varied():
    once = torch.arange(8)[None]
    assert distinct(once, 3) == 1
    assert distinct(once.expand(4, 8), 3) == 0.25
    assert ngrams(torch.tensor([[1, 2, 1, 2]]), 2).tolist() == [[0, 1, 0]]


def test_a_completion_cannot_be_the_whole_sequence(judge):
    with pytest.raises(ValueError, match="drawn=13 of 13"):
        judge(encode("the state of "), 13)
    with pytest.raises(ValueError, match="n=4 for rows of 3"):
        distinct(torch.zeros(1, 3, dtype=torch.int64), 4)


def test_words_cut_at_the_ends_are_not_counted():
    assert known_words(["ate of union uni"], {"of", "union"}) == 1
    assert known_words([" ate of union."], {"of", "union"}) == pytest.approx(2 / 3)
    assert known_words(["union", "sta te"], {"union"}) == 0


def test_a_longer_word_is_not_the_right_one():
    cloze = Cloze(encode("un", "st", "st"), ("ion", "ate", "ate"), whole_word=True)
    assert cloze.accuracy(["ion of", "ates ", "ate."]) == pytest.approx(2 / 3)
    prefix = Cloze(cloze.prompts, cloze.answers)
    assert prefix.accuracy(["ion of", "ates ", "at e"]) == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="zip"):
        cloze.accuracy(["ion"])


def test_prompts_end_where_the_answer_begins():
    text = "we speak of the union again and of nations at peace. the states remain."
    tokenizer = character_tokenizer()
    generator = torch.Generator().manual_seed(0)
    cloze = word_cloze(text, tokenizer, 3, 24, given=2, shortest=6, generator=generator)
    assert cloze.prompts.shape == (3, 24)
    for prompt, answer in zip(tokenizer.batch_decode(cloze.prompts), cloze.answers, strict=True):
        assert prompt + answer in text and len(prompt.split(" ")[-1]) == 2
    assert sorted(cloze.answers) == ["ates", "main", "tions"]
    assert cloze.accuracy([answer + " x" for answer in cloze.answers]) == 1
    with pytest.raises(ValueError, match="has 3 words of at least 6 letters with 24 tokens"):
        word_cloze(text, tokenizer, 4, 24)


def test_the_answer_of_a_copy_stands_in_its_prompt():
    tokens = encode("we speak of the union again and of nations at peace")[0]
    tokenizer = character_tokenizer()
    cloze = copy_cloze(tokens, tokenizer, 5, 16, generator=torch.Generator().manual_seed(0))
    assert cloze.prompts.shape == (5, 16)
    assert len({tuple(prompt) for prompt in cloze.prompts.tolist()}) == 5
    for prompt, answer in zip(tokenizer.batch_decode(cloze.prompts), cloze.answers, strict=True):
        assert prompt[:4] == prompt[12:] and prompt[4:8] == answer
    with pytest.raises(ValueError, match="multiple of 4"):
        copy_cloze(tokens, tokenizer, 5, 18)
    with pytest.raises(ValueError, match="60 passages need 72"):
        copy_cloze(tokens, tokenizer, 60, 16)
