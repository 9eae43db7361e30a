"""What says how good samples of the text scoreboard are, and how they are compared."""

from __future__ import annotations

import pytest
import torch
from scoreboard_text_corpus import encoded
from scoreboard_text_figures import (
    Figures,
    at_entropy,
    best_teacher,
    curve,
    known_words,
    repeated,
)
from scoreboard_text_language_model import LanguageModel, samples_file
from scoreboard_text_networks import ASSET
from scoreboard_text_tables import ahead, ranking
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

pytestmark = pytest.mark.usefixtures("registries_of_their_own")


def row(temperature, ngram_entropy, nll, **about):
    return {"temperature": temperature, "ngram_entropy": ngram_entropy, "nll": nll, **about}


def test_a_curve_is_read_between_its_temperatures_and_nowhere_else():
    rows = [row(1.0, 8.0, 3.0), row(0.8, 7.0, 2.0), row(0.9, 7.5, 2.8)]
    found = at_entropy(rows, 7.25)
    assert found["nll"] == pytest.approx(2.4) and found["temperature"] == pytest.approx(0.85)
    assert at_entropy(rows, 7.0)["nll"] == 2.0 and at_entropy(rows, 8.0)["nll"] == 3.0
    assert at_entropy(rows, 6.9) is None and at_entropy(rows, 8.1) is None
    assert at_entropy(rows[:1], 8.0) is None


def test_a_curve_that_turns_is_read_where_it_is_best():
    rows = [row(0.8, 7.0, 2.0), row(0.9, 8.0, 3.0), row(1.0, 7.0, 1.0)]
    assert at_entropy(rows, 7.5)["nll"] == pytest.approx(2.0)


def test_diversity_is_matched_by_the_entropy_that_was_asked_for():
    rows = [row(0.8, 7.0, 2.0, entropy=2.5), row(1.0, 8.0, 4.0, entropy=2.6)]
    assert at_entropy(rows, 2.55, "entropy")["nll"] == pytest.approx(3.0)
    assert at_entropy(rows, 7.5, "entropy") is None


def test_the_best_teacher_is_that_at_the_students_own_entropy():
    about = {"model": "teacher", "calls": 4}
    rows = [
        row(0.8, 7.0, 2.0, sampler="ancestral", **about),
        row(1.0, 8.0, 4.0, sampler="ancestral", **about),
        row(0.8, 5.0, 1.0, sampler="confidence", **about),
        row(1.0, 7.5, 2.2, sampler="confidence", **about),
        row(1.0, 7.5, 0.1, sampler="confidence", model="teacher", calls=8),
    ]
    assert best_teacher(rows, 4, 7.25)[0] == "confidence"
    assert best_teacher(rows, 4, 7.75) == ("ancestral", pytest.approx({**at(0.95, 7.75, 3.5)}))
    assert best_teacher(rows, 4, 8.5) is None and best_teacher(rows, 2, 7.0) is None


def test_a_second_judge_has_a_best_teacher_of_its_own():
    about = {"model": "teacher", "calls": 4}
    rows = [
        row(0.8, 7.0, 2.0, sampler="ancestral", lm_nll=5.0, **about),
        row(1.0, 8.0, 4.0, sampler="ancestral", lm_nll=6.0, **about),
        row(0.8, 7.0, 3.0, sampler="confidence", lm_nll=4.0, **about),
        row(1.0, 8.0, 5.0, sampler="confidence", lm_nll=5.0, **about),
        row(1.0, 7.5, 2.9, model="ecd", calls=4, seed=0, lm_nll=4.75),
        row(0.8, 7.0, 1.5, model="ecd", calls=4, seed=0),  # not read by the second judge
    ]
    assert best_teacher(rows, 4, 7.5)[0] == "ancestral"
    assert best_teacher(rows, 4, 7.5, judge="lm_nll")[0] == "confidence"
    assert ahead(rows, "ecd", 4, "ngram_entropy") == pytest.approx((0.1 + 0.5) / 2)
    assert ahead(rows[:5], "ecd", 4, "ngram_entropy", "lm_nll") == pytest.approx(-0.25)


def test_seeds_are_ranked_one_by_one():
    rows = [
        row(0.8, 7.0, 2.0, model="teacher", sampler="ancestral", calls=1, seed=0),
        row(1.0, 8.0, 4.0, model="teacher", sampler="ancestral", calls=1, seed=0),
        row(1.0, 7.5, 2.8, model="ecd", calls=1, seed=0),
        row(1.0, 7.0, 2.1, model="ecd", calls=1, seed=1),
    ]
    assert "| ecd | +0.050 (-0.100 to +0.200) |" in ranking(rows, "ngram_entropy")


def test_the_last_line_says_what_there_is_to_win_by_more_calls():
    own = {"model": "teacher", "sampler": "ancestral", "seed": 0}
    rows = [
        row(0.8, 7.0, 2.0, calls=1, **own),
        row(1.0, 8.0, 4.0, calls=1, **own),
        row(1.0, 7.5, 2.8, model="ecd", calls=1, seed=0),
    ]
    assert "the teacher's" not in ranking(rows, "ngram_entropy")
    rows.append(row(1.0, 7.25, 1.5, calls=64, **own))
    assert ranking(rows, "ngram_entropy").endswith("\n| the teacher's 64 calls | +1.000 |")


def at(temperature, ngram_entropy, nll):
    return {"temperature": temperature, "ngram_entropy": ngram_entropy, "nll": nll}


def test_seeds_are_a_mean_and_no_points_of_their_own():
    rows = [row(1.0, 8.0, 3.0, seed=0), row(1.0, 8.2, 3.2, seed=1), row(0.8, 7.0, 2.0, seed=0)]
    made = curve(rows)
    assert [each["seeds"] for each in made] == [1, 2]
    assert made[1]["nll"] == pytest.approx(3.1)


def test_the_judge_says_the_log_probability_that_its_conditionals_multiply_to():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=27,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=16,
        bos_token_id=None,
        eos_token_id=None,
    )
    judge = LlamaForCausalLM(config).eval()
    rows = torch.randint(27, (3, 12))
    told = Figures(judge, torch.randint(27, (500,)), frozenset())(rows)
    total = 0.0
    for text in rows:
        for end in range(1, 12):
            with torch.no_grad():
                logits = judge(input_ids=text[None, :end]).logits[0, -1]
            total -= float(logits.double().softmax(-1)[text[end]].log())
    assert told["nll"] == pytest.approx(total / 33, abs=1e-5)


def test_the_second_judge_counts_the_characters_behind_the_first_subword(tmp_path):
    words = {"peace ": 0, "na": 1, "tion": 2, "t": 3, "i": 4}
    merges = [("n", "a"), ("t", "i"), ("ti", "o"), ("tio", "n")]
    letters = sorted({*"peace nation", "pe", "ti", "tio"} - words.keys())
    vocabulary = words | {each: len(words) + i for i, each in enumerate(letters)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(tmp_path)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        bos_token_id=None,
        eos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    judge = LanguageModel(tmp_path)
    told = judge(["nation", "i tip"], batch_size=2)
    for text, ids, characters, found in (
        ("nation", [1, 2], 4, told[0]),
        ("i tip", [vocabulary[each] for each in ("i", " ", "ti", "p")], 4, told[1]),
    ):
        assert judge.tokenizer(text, add_special_tokens=False).input_ids == ids
        with torch.no_grad():
            log_p = (
                judge.model(input_ids=torch.tensor([ids])).logits[0, :-1].double().log_softmax(-1)
            )
        total = -sum(float(log_p[i, token]) for i, token in enumerate(ids[1:]))
        assert float(found) == pytest.approx(total / characters, rel=0.02)  # bfloat16


def test_samples_are_found_again_by_their_row():
    about = {"part": "test", "length": 128, "model": "ecd", "seed": 0, "calls": 2}
    about |= {"temperature": 0.8}
    found = samples_file(ASSET, {**about, "nll": 3.0, "steps": 5})
    assert found == samples_file(ASSET, about) != samples_file(ASSET, about | {"calls": 4})


def test_words_that_an_end_has_cut_or_that_are_short_are_not_looked_for():
    words = frozenset({"peace", "nation"})
    assert known_words(["xx peace nat the nation xxxxx nat", "peace"], words) == pytest.approx(
        2 / 3
    )
    assert known_words(["", "a b"], words) == 0


def test_what_a_sample_had_before_is_counted_once_for_each_time():
    rows = encoded("abababab")[None], encoded("abcdefgh")[None]
    assert repeated(rows[0], 2) == pytest.approx(5 / 7) and repeated(rows[1], 2) == 0
    both = torch.cat(rows)
    assert repeated(both, 2) == pytest.approx(5 / 14)  # another sample's do not count
