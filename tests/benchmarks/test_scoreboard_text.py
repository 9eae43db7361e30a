"""The pieces of the text scoreboard that could be wrong unseen."""

from __future__ import annotations

import json
import sys

import pytest
import scoreboard_text
import scoreboard_text_tables
import torch
from scoreboard_text_corpus import SHARES, SYMBOLS, Corpus, decoded, encoded, normalised, split
from scoreboard_text_muon import Muon, orthogonalised
from scoreboard_text_networks import ASSET, entry
from scoreboard_text_recipes import ALL, RECIPES
from scoreboard_text_students import Passes, passes_per_step, student_of

from hf_ddistill import DDiTConfig, DDiTForDiscreteDiffusion

pytestmark = pytest.mark.usefixtures("registries_of_their_own")


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


@pytest.mark.parametrize(("name", "passes"), [("nelbo", 3), ("ecd", 4), ("d_mmd", 7)])
def test_a_backward_pass_counts_as_two_more(name, passes):
    # d_mmd: student and auxiliary with gradients, the teacher without.
    assert passes_per_step(RECIPES[name], 2, 4, 8) == passes


def test_a_student_for_eight_calls_alone_rolls_out_longer_than_one_of_all_numbers():
    alone, every = ALL["law_matching_bridge_for_8"], ALL["law_matching_bridge"]
    assert (alone.calls, every.calls) == (8, 0)
    assert passes_per_step(alone, 8, 4, 8) > passes_per_step(every, 8, 4, 8) + 1


def test_a_variant_is_no_row_that_everybody_is_ranked_with():
    assert {name for name in RECIPES if "law_matching" in name} == {
        "law_matching_bridge",
        "law_matching_call",
    }
    assert {recipe.start for recipe in ALL.values()} - {""} <= ALL.keys()


@pytest.mark.parametrize(("name", "std"), [("d_mmd_weak", 0.3), ("d_mmd_fixed", 1.2)])
def test_noise_adds_four_times_what_weak_noise_does_and_the_teacher_is_as_it_was(name, std):
    added = student_of(ASSET, ALL[name]).model.noise_proj.weight.square().sum(1).mean().sqrt()
    assert float(added.detach()) == pytest.approx(std, rel=0.1)


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
    few |= {"students": "ecd law_matching_call law_matching_weak_from_alpha", "temperatures": 1.0}
    few |= {"text": text, "teacher": teacher, "output": tmp_path / "runs", "json": file}
    command = [word for name, value in few.items() for word in (f"--{name}", *str(value).split())]
    monkeypatch.setattr(sys, "argv", ["", *command])
    scoreboard_text.main()
    rows = json.loads(file.read_text())["rows"]
    assert [row["model"] for row in rows].count("teacher") == 3 * 2 * 2 + 2
    behind = {"ecd": 60, "law_matching_call": 60, "law_matching_weak_from_alpha": 30}
    for name, passes in behind.items():
        (row,) = (row for row in rows if row["model"] == name)
        assert row["steps"] * row["passes_per_step"] == pytest.approx(passes, abs=6)
        assert ("noise_std" in row) == (name == "law_matching_call")
    capsys.readouterr()
    scoreboard_text.main()
    assert capsys.readouterr().out == "" and json.loads(file.read_text())["rows"] == rows
    monkeypatch.setattr(sys, "argv", ["", str(file), "--length", "16", "--passes", "60"])
    scoreboard_text_tables.main()
    told = capsys.readouterr().out
    assert "| law_matching_call | 2 |" in told and "bound of the teacher" in told


def test_the_teacher_that_is_started_from_has_the_size_and_the_noise_that_the_page_tells():
    assert sum(file.stat().st_size for file in ASSET.iterdir()) < 12e6
    config = DDiTConfig.from_pretrained(ASSET)
    network = DDiTForDiscreteDiffusion(config)
    assert sum(p.numel() for p in network.parameters()) == 5_270_620
    assert {**config.discrete_diffusion, **entry()} == config.discrete_diffusion
