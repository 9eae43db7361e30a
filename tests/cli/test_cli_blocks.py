"""The commands on a causal language model: convert, distil, sample."""

from __future__ import annotations

import json
import re

import pytest
import torch
from block_runs import counting_lm, counts
from transformers import AutoConfig, AutoModelForMaskedLM, AutoTokenizer

from hf_ddistill.cli import main
from hf_ddistill.cli.common import print_table
from hf_ddistill.models import BlockDiffusionLM


@pytest.fixture(scope="module")
def converted(lm, tmp_path_factory):
    folder = tmp_path_factory.mktemp("blocks") / "converted"
    assert main(["convert", str(lm), "--output", str(folder), "--block-size", "4"]) == 0
    return folder


OPDLM = '{"type": "opdlm", "rollouts": {"tokens": 8}}'


def distil(lm, converted, folder, *more):
    data = folder.parent / "counts.jsonl"
    data.write_text("".join(json.dumps({"input_ids": r}) + "\n" for r in counts(64, 3).tolist()))
    options = ["--data", data, "--output", folder, "--objective", OPDLM, "--steps", 3]
    options += ["--batch-size", 8, "--prompt-length", 3, *more]
    return main(["distill", "--teacher", str(lm), *map(str, options)])


def test_mask_token_takes_the_free_row(converted):
    model = AutoModelForMaskedLM.from_pretrained(converted)
    tokenizer = AutoTokenizer.from_pretrained(converted)
    assert isinstance(model, BlockDiffusionLM)
    assert model.config.block_size == 4
    assert tokenizer.mask_token_id == model.config.mask_token_id == 11
    assert model.config.vocab_size == 12


def test_a_causal_teacher_distils_into_its_converted_student(lm, converted, tmp_path, capsys):
    assert distil(lm, converted, tmp_path / "student", "--student", converted) == 0
    assert "A student of blocks of 4 is in" in capsys.readouterr().out
    options = ["--max-new-tokens", "6", "--count", "2", "--unmasking", "static", "--json"]
    rows = tmp_path / "rows.json"
    assert (
        main(["sample", str(tmp_path / "student"), "--prompt", "<s> 1 2", *options, str(rows)]) == 0
    )
    written = json.loads(rows.read_text())
    assert len(written["rows"]) == 2
    assert all(row["text"].startswith("1 2") for row in written["rows"])
    # Blocks are decoded whole: 3 tokens of the prompt and 9 more are three of them.
    assert written["nfe"] == 9


def test_a_causal_teacher_without_a_student_is_told(lm, converted, tmp_path, capsys):
    assert distil(lm, converted, tmp_path / "student") == 2
    assert "make its student with hf-ddistill convert" in capsys.readouterr().err
    assert not (tmp_path / "student").exists()


def test_a_causal_teacher_among_several_is_told(lm, converted, tmp_path, capsys):
    options = ["--output", str(tmp_path / "x"), "--data", "digits", "--student", str(converted)]
    assert main(["distill", "--teacher", str(converted), str(lm), *options]) == 2
    said = capsys.readouterr().err
    assert f"{lm} is a causal language model, which can be given alone" in said
    assert not (tmp_path / "x").exists()


def test_what_is_no_causal_model_is_not_converted(converted, tmp_path, capsys):
    assert main(["convert", str(converted), "--output", str(tmp_path / "out")]) == 2
    assert "it is a model of ours already" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_full_vocabulary_is_kept_if_asked(tmp_path, lm, capsys):
    tokenizer = AutoTokenizer.from_pretrained(lm)
    tokenizer.add_tokens(["eight"])
    counting_lm().save_pretrained(tmp_path / "full")
    tokenizer.save_pretrained(tmp_path / "full")
    options = ["--output", str(tmp_path / "out"), "--no-grow-vocabulary"]
    assert main(["convert", str(tmp_path / "full"), *options]) == 2
    assert "The vocabulary is full: 12 tokens in 12" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_every_call_of_block_decoding_is_shown(converted, capsys):
    capsys.readouterr()
    options = ["--max-new-tokens", "8", "--steps-per-block", "2", "--count", "2", "--show"]
    assert main(["sample", str(converted), "--prompt", "1 2 3", *options]) == 0
    said = capsys.readouterr().out
    came = re.findall(r"step (\d) of (\d): (\d+) tokens, of which the model was \d+% sure", said)
    assert len(came) == int(came[0][1]) and sum(int(each[2]) for each in came) >= 2 * 8
    greedy = [*options[:-1], "--temperature", "0", "--show"]
    assert main(["sample", str(converted), "--prompt", "1 2 3", *greedy]) == 0
    assert "sure" not in capsys.readouterr().out, "the law of the likeliest token is certain"


def test_a_block_model_is_scored_as_if_it_saw_all_tokens(converted, lm, tmp_path, capsys):
    folder, data, out = tmp_path / "one", tmp_path / "data.jsonl", tmp_path / "rows.json"
    assert main(["convert", str(lm), "--output", str(folder), "--block-size", "1"]) == 0
    row = counts(1, 3).tolist()[0][:4]
    data.write_text(json.dumps({"input_ids": row}))
    scores = ["--data", str(data), "--orders", "2", "--json", str(out)]
    assert main(["evaluate", str(folder), *scores]) == 0
    (said,) = json.loads(out.read_text())["rows"]
    model = AutoModelForMaskedLM.from_pretrained(folder)
    parts = (torch.tensor([[*row[:i], model.config.mask_token_id]]) for i in range(4))
    with torch.no_grad():
        last = [model(part).logits[0, -1].double() for part in parts]
    clean = [logits.index_fill(0, torch.tensor(11), -torch.inf).log_softmax(0) for logits in last]
    truth = sum(float(law[token]) for law, token in zip(clean, row, strict=True))
    assert said["log_probability"] == pytest.approx(truth, abs=1e-4)
    assert said["over_orders"] == pytest.approx(0, abs=1e-9)
    assert main(["evaluate", str(converted), "--mutations", "1 2 3"]) == 2
    assert "sees none behind its block; use --orders" in capsys.readouterr().err


def test_a_token_breaks_the_line_of_a_table(capsys):
    print_table([{"token": "a\n\x1b[0mb", "é": " "}])
    assert capsys.readouterr().out.splitlines()[1:] == [r"a\n\x1b[0mb   "]


def trained(folder, teacher, data, objective, *more):
    words = ["--teacher", teacher, "--data", data, "--output", folder, "--objective", objective]
    words += ["--steps", 1, "--batch-size", 4, "--student-steps", 2, *more]
    return main(["distill", *map(str, words)])


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    file = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    file.write_text("".join(json.dumps({"input_ids": r}) + "\n" for r in counts(8, 8).tolist()))
    return file


def test_a_model_of_blocks_is_not_trained_on_noise_before_its_blocks(
    converted, rows, tmp_path, capsys
):
    """It was never shown masks in an earlier block: what it says of such a row means nothing."""
    for objective in ("law_matching", "ecd"):
        assert trained(tmp_path / "x", converted, rows, objective) == 2
        said = capsys.readouterr().err
        assert "sees blocks of 4" in said and "'dparallel'" in said
    assert not (tmp_path / "x").exists()


def test_a_causal_teacher_is_not_asked_what_stands_at_masks(lm, converted, rows, tmp_path, capsys):
    for objective in ("law_matching", "dparallel", "d2f"):
        more = ("--student", converted)
        assert trained(tmp_path / "x", lm, rows, objective, *more) == 2
        assert "a causal language model reads none: take 'opdlm'" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_a_student_of_full_attention_is_sampled_in_the_calls_it_was_trained_for(
    lm, rows, tmp_path, capsys
):
    """Decoding, a call for each token, was all that the command knew."""
    window = AutoConfig.from_pretrained(lm).max_position_embeddings
    full = tmp_path / "full"
    assert main(["convert", str(lm), str(full), "--block-size", str(window)]) == 0
    assert trained(tmp_path / "student", full, rows, "ecd") == 0
    said = capsys.readouterr().out
    assert "ancestral steps, 2 network calls" in said and "--steps 2" in said
    words = ["sample", str(tmp_path / "student"), "--count", "3", "--json"]
    at_once = ["--steps", "2", "--length", "8", "--sampler", "jump"]
    assert main([*words, str(tmp_path / "at_once.json"), *at_once]) == 0
    drawn = json.loads((tmp_path / "at_once.json").read_text())
    assert drawn["nfe"] == 2 and [len(row["tokens"]) for row in drawn["rows"]] == [8] * 3
    assert main([*words, str(tmp_path / "x.json"), *at_once, "--max-new-tokens", "4"]) == 2
    assert "draws all positions at once" in capsys.readouterr().err


def test_a_network_without_blocks_is_told_so_by_their_objectives(rows, tmp_path, capsys):
    """ "The step has no trajectory" said nothing to those who had given --objective bd3lm."""
    words = ["teacher", "--data", str(rows), "--output", str(tmp_path / "t"), "--steps", "1"]
    words += ["--hidden-size", "8", "--layers", "1", "--heads", "2"]
    assert main(words) == 0
    assert trained(tmp_path / "x", tmp_path / "t", rows, "bd3lm") == 2
    assert "draws all positions at once: take one over rows" in capsys.readouterr().err
