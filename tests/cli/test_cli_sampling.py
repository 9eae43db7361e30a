"""`hf-ddistill sample` and `evaluate`: the saved sampler, and what people run is judged."""

from __future__ import annotations

import json
import math

import pytest
import torch
from block_runs import converted
from cli_runs import ddit, refused, run, words
from transformers import GPT2Config, GPT2LMHeadModel

from hf_ddistill.cli.sample import open_pipeline
from hf_ddistill.models import DDiTForDiscreteDiffusion
from hf_ddistill.pipelines import DiscreteDiffusionPipeline
from hf_ddistill.schedulers import AncestralScheduler, JumpScheduler


def rows_of(tmp_path, *argv):
    """The rows that a call writes."""
    file = tmp_path / "rows.json"
    file.unlink(missing_ok=True)
    assert run(*argv, "--json", file) == 0
    return json.loads(file.read_text())["rows"]


@pytest.fixture(scope="module")
def cold(tmp_path_factory):
    """A pipeline that was saved to draw almost greedily, by jumps."""
    folder = tmp_path_factory.mktemp("cold")
    model = DDiTForDiscreteDiffusion.from_pretrained(ddit(folder / "m", initializer_range=0.5))
    pipe = DiscreteDiffusionPipeline.from_model(
        model, JumpScheduler, temperature=0.3, num_inference_steps=3
    )
    pipe.save_pretrained(folder / "p")
    return folder / "p"


def test_the_sampler_that_was_saved_is_the_one_that_runs(cold, tmp_path):
    def kind_of(scheduler, temperature):
        made = open_pipeline(str(cold), None, scheduler, temperature).scheduler
        return type(made), made.config.temperature

    assert kind_of(None, None) == (JumpScheduler, 0.3)
    assert kind_of("ancestral", None) == (AncestralScheduler, 0.3)
    assert kind_of(None, 0.9) == (JumpScheduler, 0.9)
    assert rows_of(tmp_path, "sample", cold) == rows_of(
        tmp_path, "sample", cold, "--temperature", 0.3, "--sampler", "jump", "--steps", 3
    )


def test_an_unmasking_rule_serves_a_model_of_all_positions(cold, tmp_path, capsys):
    given = ["sample", cold, "--steps", 3]
    by_rule = rows_of(tmp_path, *given, "--unmasking", "threshold")
    named = ["--sampler", "unmasking", "--sampler.unmasking", "threshold"]
    assert by_rule == rows_of(tmp_path, *given, *named) != rows_of(tmp_path, *given)
    scheduler = open_pipeline(str(cold), None, '{"type": "unmasking"}', None).scheduler
    assert scheduler.sampler.temperature == 0.3, "the one that was saved"
    rules = ["static", '{"type": "factor", "factor": 2.0}']
    few = ["evaluate", cold, "--nfe", 1, 2, "--samples", 8]
    rows = rows_of(tmp_path, *few, "--unmasking", *rules)
    assert [row["unmasking"] for row in rows] == [rules[0]] * 2 + [rules[1]] * 2
    assert [row["nfe"] for row in rows] == [1, 2] * 2
    assert "give no --sampler" in refused(capsys, *given, *named, "--unmasking", "static")
    assert "--sampler" in refused(capsys, *given, "--sampler", "jumpp")


def test_a_drafter_is_not_asked_counted_or_left_out(tmp_path, capsys):
    teacher, student = ddit(tmp_path / "teacher"), ddit(tmp_path / "student", hidden_size=8)
    pair = ["sample", teacher, "--drafter", student, "--count", 2]
    file = tmp_path / "drawn.json"
    assert run(*pair, "--sampler", "speculative", "--sampler.lookahead", 2, "--json", file) == 0
    assert "tokens a call of the model" in capsys.readouterr().out
    told = json.loads(file.read_text())
    assert told["drafter_calls"] > 0
    for row in told["rows"]:
        assert row["tokens_per_call"] == pytest.approx(8 / row["calls"], abs=1e-3)
        assert row["calls"] <= told["nfe"]
    own = json.dumps({"type": "speculative", "lookahead": 2})
    assert rows_of(tmp_path, *pair, "--sampler", own) == told["rows"]
    for flag, other in (("--sampler", "jump"), ("--unmasking", "static")):
        assert "takes no drafts" in refused(capsys, *pair, flag, other)
    other = ddit(tmp_path / "other", vocab_size=25)
    assert "vocab_size" in refused(capsys, "sample", teacher, "--drafter", other)
    for flags, said in ((["--guidance", -1], "at least 0"), (["--guidance", 1], "--class-label")):
        assert said in refused(capsys, "sample", teacher, *flags)
    nowhere = refused(capsys, "sample", teacher, "--drafter", tmp_path / "none")
    assert "none" in nowhere
    pipe = DiscreteDiffusionPipeline.from_pretrained(teacher, drafter=student)
    pipe.save_pretrained(tmp_path / "both")
    assert open_pipeline(str(tmp_path / "both"), None, None, None).drafter is not None
    assert open_pipeline(str(tmp_path / "both"), None, "jump", None).drafter is None


def test_evaluate_leaves_the_temperature_as_it_was_saved(cold, tmp_path):
    given = ["evaluate", cold, "--nfe", 1, "--samples", 64]
    (saved,) = rows_of(tmp_path, *given)
    assert saved == rows_of(tmp_path, *given, "--temperature", 0.3)[0]
    assert (
        saved["corpus_entropy"] < rows_of(tmp_path, *given, "--temperature", 1)[0]["corpus_entropy"]
    )


def test_an_image_is_written_and_its_numbers_are_not_printed(tmp_path, capsys):
    folder = ddit(tmp_path / "m", vocab_size=3, mask_token_id=2, token_shape=[2, 2])
    capsys.readouterr()
    assert run("sample", folder, "--count", 3, "--image", tmp_path / "new" / "s.png") == 0
    out = capsys.readouterr()
    assert out.out == f"3 samples are in {tmp_path / 'new' / 's.png'}.\n"
    assert "\x1b" not in out.err and "\r" not in out.err


def test_the_bound_of_a_model_that_knows_nothing_is_that_of_a_uniform_guess(tmp_path):
    folder = ddit(tmp_path / "m")
    model = DDiTForDiscreteDiffusion.from_pretrained(folder)
    torch.nn.init.zeros_(model.lm_head.weight)
    torch.nn.init.zeros_(model.lm_head.bias)
    model.save_pretrained(folder)
    lines = ({"input_ids": [(i + j) % 23 for j in range(8)]} for i in range(128))
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    given = ["--nfe", 1, 2, "--samples", 8, "--data", tmp_path / "a.jsonl"]
    rows = rows_of(tmp_path, "evaluate", folder, *given)
    assert [row["nfe"] for row in rows] == [1, 2]
    # E over t of (masked / L) / t is 1, so that only the draws of the masks move the bound.
    assert rows[0]["nelbo"] == rows[1]["nelbo"] == pytest.approx(math.log(23), rel=0.15)


def test_given_data_are_sampled_when_they_are_to_be_scored(tmp_path, capsys):
    folder = ddit(tmp_path / "m", mask_token_id=2)
    tokenizer = words(["[PAD]", "[UNK]", "[MASK]", "[EOS]"])
    tokenizer.save_pretrained(folder)
    lines = ({"input_ids": [4 + (i + j) % 9 for j in range(8)]} for i in range(6))
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    given = ["evaluate", folder, "--data", tmp_path / "a.jsonl"]
    (bound,) = rows_of(tmp_path, *given, "--bound", "--draws", 3)
    assert bound["bits_per_token"] == pytest.approx(bound["nelbo"] / math.log(2))
    assert bound["tokens"] == 48 and bound["standard_error"] > 0 and "nfe" not in bound
    orders = rows_of(tmp_path, *given, "--orders", 2)
    assert [row["row"] for row in orders] == list(range(6))
    assert all(row["nats_per_token"] == -row["log_probability"] / 8 for row in orders)
    changes = rows_of(tmp_path, "evaluate", folder, "--mutations", "w0 w1")
    assert {row["position"] for row in changes} == {1, 2}
    scores = [row["score"] for row in changes]
    assert scores == sorted(scores, reverse=True)
    assert not {"[MASK]", "[PAD]"} & {row["to"] for row in changes}
    assert "--bound is of --data" in refused(capsys, "evaluate", folder, "--bound")
    assert "one of them" in refused(capsys, *given, "--bound", "--orders", 2)
    assert "--nfe is of samples" in refused(capsys, *given, "--bound", "--nfe", 2)
    assert "--draws is of --bound" in refused(capsys, *given, "--orders", 2, "--draws", 3)
    assert "not for it" in refused(capsys, *given, "--mutations", "w0")


@pytest.fixture(scope="module")
def blocks(tmp_path_factory):
    """A block-diffusion model over the words of a tokenizer."""
    folder = tmp_path_factory.mktemp("blocks")
    converted().save_pretrained(folder)
    tokenizer = words(["[BOS]", "[EOS]", "[PAD]", "[UNK]", *"abcdefg", "[MASK]"], 0)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_block_model_is_judged_as_its_decoder_writes(blocks, tmp_path, capsys):
    given = ["evaluate", blocks, "--samples", 6, "--batch-size", 4, "--max-new-tokens", 7]
    planned = rows_of(tmp_path, *given, "--steps-per-block", 1, 2, 4)
    assert [row["steps_per_block"] for row in planned] == [1, 2, 4]
    assert all(row["unmasking"] == "static" for row in planned)
    calls = [row["nfe"] for row in planned]
    assert calls == sorted(calls) and calls[0] < calls[2]
    assert planned[0]["tokens_per_call"] > planned[2]["tokens_per_call"] == 1
    assert planned[0]["unique"] > 0.5  # nothing was saved: they are drawn
    assert {"entropy", "corpus_entropy", "unique"} <= set(planned[0])
    (own,) = rows_of(tmp_path, *given)
    assert own["unmasking"] == "threshold" and own["tokens_per_call"] >= 1
    rules = rows_of(tmp_path, *given, "--unmasking", "static", '{"type": "factor", "factor": 2.0}')
    assert [row["unmasking"] for row in rules] == ["static", '{"type": "factor", "factor": 2.0}']
    assert "decodes by blocks" in refused(capsys, *given, "--nfe", 4)
    assert "decodes behind a prompt" in refused(capsys, "sample", blocks, "--steps", 4)
    assert "--sampler" in refused(capsys, *given, "--sampler", "jump")


def test_the_bound_of_a_block_model_is_told(blocks, tmp_path):
    text_file = tmp_path / "a.txt"
    text_file.write_text("\n".join("a b c d e f g a b c d e f g a" for _ in range(16)))
    given = ["--samples", 2, "--max-new-tokens", 4, "--data", text_file, "--max-length", 8]
    (row,) = rows_of(tmp_path, "evaluate", blocks, *given)
    assert 0 < row["nelbo"] < 20


@pytest.mark.parametrize(("length", "bias"), [(64, 0.0), (4, 12.0)], ids=["too long", "empty"])
def test_a_causal_judge_survives_long_and_empty_samples(length, bias, tmp_path):
    names = ["[PAD]", "[UNK]", "[MASK]", "[EOS]"]
    tokenizer = words(names)
    sizes = {"vocab_size": 24, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 16}
    GPT2LMHeadModel(GPT2Config(**sizes)).save_pretrained(tmp_path / "judge")
    tokenizer.save_pretrained(tmp_path / "judge")
    folder = ddit(tmp_path / "m", mask_token_id=2, max_position_embeddings=length)
    model = DDiTForDiscreteDiffusion.from_pretrained(folder)
    with torch.no_grad():
        model.lm_head.bias[3] = bias
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    given = ["--nfe", 1, "--samples", 16, "--judge", tmp_path / "judge"]
    (row,) = rows_of(tmp_path, "evaluate", folder, *given)
    if bias:
        assert row["empty_samples"] > 8 and row["cut_samples"] == 0
    else:
        assert row["empty_samples"] == 0 and row["cut_samples"] == 16
        assert row["scored_tokens"] == 16 * 15 and row["perplexity"] > 1


def test_what_is_no_causal_model_is_no_judge(tmp_path, capsys):
    folder = ddit(tmp_path / "m", mask_token_id=2)
    by_text = json.dumps({"type": "perplexity", "model": str(folder)})
    assert "has no tokenizer" in refused(capsys, "evaluate", folder, "--judge", by_text)
    words(["[PAD]", "[UNK]", "[MASK]", "[EOS]"]).save_pretrained(folder)
    assert "is none of them" in refused(capsys, "evaluate", folder, "--judge", folder)
