"""The pieces of the text scoreboard that could be wrong unseen."""

from __future__ import annotations

import json
import sys

import pytest
import scoreboard_text
import scoreboard_text_tables
import torch
from scoreboard_text_corpus import SHARES, SYMBOLS, Corpus, decoded, encoded, normalised, split
from scoreboard_text_figures import (
    Figures,
    at_entropy,
    best_teacher,
    curve,
    known_words,
    repeated,
)
from scoreboard_text_language_model import LanguageModel, samples_file
from scoreboard_text_muon import Muon, orthogonalised
from scoreboard_text_networks import ASSET, entry
from scoreboard_text_recipes import ALL, RECIPES
from scoreboard_text_students import Passes, passes_per_step
from scoreboard_text_tables import ahead, ranking
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from hf_ddistill import DDiTConfig, DDiTForDiscreteDiffusion

pytestmark = pytest.mark.usefixtures("registries_of_their_own")


def row(temperature, ngram_entropy, nll, **about):
    return {"temperature": temperature, "ngram_entropy": ngram_entropy, "nll": nll, **about}


def test_no_speech_is_in_two_parts_and_none_is_lost():
    speeches = [f"speech {number}" for number in range(233)]
    parts = split(speeches)
    assert sorted(speech for part in parts.values() for speech in part) == sorted(speeches)
    for name, share in SHARES.items():
        assert len(parts[name]) == pytest.approx(233 * share / 20, abs=2)
        numbers = [int(speech.split()[1]) for speech in parts[name]]
        assert min(numbers) < 20 and max(numbers) > 213  # of all times


def test_the_same_speech_twice_would_be_in_two_parts(tmp_path):
    words = [chr(97 + i // 26) + chr(97 + i % 26) for i in range(40)]
    file = tmp_path / "text.txt"
    file.write_text("\n\n".join(f"{word.upper()}, 1861 {word}!" for word in [*words, *words]))
    corpus = Corpus.read(file)
    found = [word for part in corpus.parts.values() for word in decoded(part).split()]
    assert sorted(found) == sorted([*words, *words])  # each speech once, of one word twice
    parts = [corpus.words(name) for name in SHARES]
    assert sum(map(len, parts)) == len(frozenset().union(*parts)) == 40


def test_text_is_read_as_27_symbols_and_back():
    text = normalised("Fellow-Citizens:\n in 1,861 -- it's")
    assert text == "fellow citizens in it s"
    assert decoded(encoded(text)) == text and int(encoded(text).max()) < len(SYMBOLS)


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


@pytest.mark.parametrize(("name", "passes"), [("nelbo", 3), ("ecd", 4), ("d_mmd", 7)])
def test_a_backward_pass_counts_as_two_more(name, passes):
    # d_mmd: student and auxiliary with gradients, the teacher without.
    assert passes_per_step(RECIPES[name], 2, 4, 8) == passes


def test_a_variant_is_no_row_that_everybody_is_ranked_with():
    assert not {name for name in ALL if name.startswith("law_matching_step_")} & RECIPES.keys()
    assert {recipe.start for recipe in ALL.values()} - {""} <= RECIPES.keys()


def test_rows_of_a_mixture_count_as_rows():
    network = DDiTForDiscreteDiffusion(
        DDiTConfig(vocab_size=4, hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
    )
    with Passes(4) as passes, torch.no_grad():
        network(torch.zeros(12, 3, dtype=torch.int64))
        network(input_ids=torch.zeros(2, 3, dtype=torch.int64))
    network(torch.zeros(4, 3, dtype=torch.int64))
    assert passes.count == 3.5


def test_a_matrix_is_turned_and_not_stretched():
    torch.manual_seed(0)
    for shape in ((8, 24), (24, 8)):
        matrix = torch.randn(shape)
        turned = orthogonalised(matrix).float()
        assert turned.shape == shape
        u, _, v = torch.linalg.svd(matrix, full_matrices=False)
        stretched = (u.T @ turned @ v.T).diagonal()
        assert 0.6 < float(stretched.min()) and float(stretched.max()) < 1.3


def test_muon_learns_what_adam_learns():
    torch.manual_seed(0)
    config = DDiTConfig(vocab_size=4, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    network = DDiTForDiscreteDiffusion(config)
    optimizer = Muon(network, 1e-2)
    matrices, others = optimizer.param_groups
    assert {p.ndim for p in matrices["params"]} == {2} and len(matrices["params"]) == 4
    assert len(matrices["params"]) + len(others["params"]) == len(list(network.parameters()))
    tokens = torch.tensor([[0, 1, 2, 2, 1, 0]])
    for _ in range(30):
        loss = network(tokens, labels=tokens).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert float(loss.detach()) < 0.05


@pytest.mark.slow
def test_the_command_trains_and_draws_nothing_twice(monkeypatch, tmp_path, capsys):
    text, teacher, file = tmp_path / "text.txt", tmp_path / "teacher", tmp_path / "rows.json"
    speeches = [f"speech {chr(97 + i)} of {chr(98 + i)} " + "and so on " * 40 for i in range(20)]
    text.write_text("\n\n".join(speeches))
    DDiTForDiscreteDiffusion(
        DDiTConfig(
            vocab_size=28,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=1,
            mask_token_id=27,
            discrete_diffusion=entry(),
        )
    ).save_pretrained(teacher)
    few = {"samples": 4, "length": 16, "judge-steps": 2, "passes": 60, "batch-size": 2}
    few |= {"calls": 2, "teacher-calls": "1 2 4", "teacher-temperatures": "0.5 1.0"}
    few |= {"students": "ecd law_matching law_matching_step_from_alpha", "temperatures": 1.0}
    few |= {"text": text, "teacher": teacher, "output": tmp_path / "runs", "json": file}
    command = [word for name, value in few.items() for word in (f"--{name}", *str(value).split())]
    monkeypatch.setattr(sys, "argv", ["", *command])
    scoreboard_text.main()
    rows = json.loads(file.read_text())["rows"]
    assert [row["model"] for row in rows].count("teacher") == 3 * 2 * 2 + 2
    for name, passes in (("ecd", 60), ("law_matching", 60), ("law_matching_step_from_alpha", 30)):
        (row,) = (row for row in rows if row["model"] == name)
        assert row["steps"] * row["passes_per_step"] == pytest.approx(passes, abs=6)
    capsys.readouterr()
    scoreboard_text.main()
    assert capsys.readouterr().out == "" and json.loads(file.read_text())["rows"] == rows
    monkeypatch.setattr(sys, "argv", ["", str(file), "--length", "16"])
    scoreboard_text_tables.main()
    told = capsys.readouterr().out
    assert "| law_matching | 2 |" in told and "bound of the teacher" in told


def test_the_teacher_that_is_started_from_has_the_size_and_the_noise_that_the_page_tells():
    assert sum(file.stat().st_size for file in ASSET.iterdir()) < 12e6
    config = DDiTConfig.from_pretrained(ASSET)
    network = DDiTForDiscreteDiffusion(config)
    assert sum(p.numel() for p in network.parameters()) == 5_270_620
    assert {**config.discrete_diffusion, **entry()} == config.discrete_diffusion
