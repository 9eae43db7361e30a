"""`hf-ddistill teacher` and `distill`: which token masks, what is trained, in what precision."""

from __future__ import annotations

import json

import pytest
import torch
from cli_runs import SHORT, SMALL, bert, ddit, refused, run, text, words
from safetensors.torch import load_file
from slow_cases import mostly_slow
from transformers import AutoModelForMaskedLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from hf_ddistill.models import DDiTForDiscreteDiffusion


def config(folder):
    return json.loads((folder / "config.json").read_text())


def tokens(file, rows=32):
    """Rows of tokens 1 .. 20, a file."""
    lines = ({"input_ids": [1 + (i + j) % 20 for j in range(8)]} for i in range(rows))
    file.write_text("\n".join(map(json.dumps, lines)))
    return file


def teach(tmp_path, *options, data=None, small=SMALL):
    """A teacher of one step, in `out`."""
    data = text(tmp_path / "a.txt") if data is None else data
    given = ["--data", data, "--output", tmp_path / "out", *small, *SHORT, *options]
    return run("teacher", *given)


@pytest.mark.parametrize("place", mostly_slow([0, 2, 4], lambda place: place == 2))
def test_the_mask_is_the_tokenizers_wherever_it_stands(place, tmp_path):
    special = ["[PAD]", "[UNK]", "[BOS]", "[EOS]"]
    special.insert(place, "[MASK]")
    tokenizer = words(special)
    tokenizer.save_pretrained(tmp_path / "tok")
    assert teach(tmp_path, "--tokenizer", tmp_path / "tok", "--max-length", 8) == 0
    made = config(tmp_path / "out")
    process = made["discrete_diffusion"]["process"]
    assert process["mask_token_id"] == made["mask_token_id"] == tokenizer.mask_token_id == place
    assert made["vocab_size"] == process["vocab_size"] == 25
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        assert made[name] == getattr(tokenizer, name), name
    assert run("sample", tmp_path / "out", "--count", 1, "--steps", 2) == 0


def test_a_tokenizer_without_a_mask_takes_the_one_that_is_given(tmp_path, capsys):
    words(["[PAD]", "[UNK]"]).save_pretrained(tmp_path / "tok")
    given = ["--tokenizer", tmp_path / "tok", "--max-length", 8]
    file = text(tmp_path / "a.txt")
    base = ["teacher", "--data", file, "--output", tmp_path / "out", *SMALL, *SHORT, *given]
    said = refused(capsys, *base)
    assert "no mask token" in said and "--mask-token-id 22 adds one" in said
    assert "is no token of the tokenizer, which has 22" in refused(
        capsys, *base, "--mask-token-id", 23
    )
    assert teach(tmp_path, *given, "--mask-token-id", 22) == 0
    made, tokenizer = config(tmp_path / "out"), AutoTokenizer.from_pretrained(tmp_path / "out")
    assert made["mask_token_id"] == tokenizer.mask_token_id == 22 and made["vocab_size"] == 23


def test_another_mask_than_the_tokenizers_is_refused(tmp_path, capsys):
    words().save_pretrained(tmp_path / "tok")
    given = ["--data", text(tmp_path / "a.txt"), "--tokenizer", tmp_path / "tok", *SMALL, *SHORT]
    given += ["--output", tmp_path / "out"]
    assert "tokenizer's mask is 2" in refused(capsys, "teacher", *given, "--mask-token-id", 1)
    process = '{"type": "absorbing", "mask_token_id": 22}'
    assert "the two must be one" in refused(capsys, "teacher", *given, "--process", process)


@pytest.mark.parametrize(
    ("options", "size", "mask"),
    [
        ([], 22, 21),
        (["--process", "uniform"], 21, None),
        pytest.param(["--process", '{"type": "absorbing"}'], 22, 21, marks=pytest.mark.slow),
        pytest.param(["--mask-token-id", "0"], 21, 0, marks=pytest.mark.slow),
        pytest.param(["--vocab-size", "30"], 30, 29, marks=pytest.mark.slow),
    ],
)
def test_the_vocabulary_counts_the_noise_that_the_process_needs(options, size, mask, tmp_path):
    assert teach(tmp_path, *options, data=tokens(tmp_path / "a.jsonl")) == 0
    made = config(tmp_path / "out")
    assert (made["vocab_size"], made["mask_token_id"]) == (size, mask)


def test_a_masked_lm_is_trained_on_by_the_bound(tmp_path, capsys):
    start = bert(tmp_path / "bert", words())
    before = load_file(start / "model.safetensors")
    assert teach(tmp_path, "--init", start, small=[], data=text(tmp_path / "b.txt", 60)) == 0
    made, after = config(tmp_path / "out"), load_file(tmp_path / "out" / "model.safetensors")
    assert made["model_type"] == "bert"
    assert made["discrete_diffusion"]["process"]["mask_token_id"] == made["mask_token_id"] == 2
    moved = sum(int((before[key] != after[key]).sum()) for key in after if key in before)
    assert moved > 1000
    assert AutoTokenizer.from_pretrained(tmp_path / "out").mask_token_id == 2
    capsys.readouterr()
    options = ["--data", tmp_path / "b.txt", "--output", tmp_path / "no", "--init", start, *SHORT]
    assert "--hidden-size: of a new network" in refused(
        capsys, "teacher", *options, "--hidden-size", 16
    )
    assert "--process" in refused(capsys, "teacher", *options, "--process", "uniform")
    assert "must be one" in refused(capsys, "teacher", *options, "--mask-token-id", 1)


def test_masked_lms_are_teachers_with_the_masks_of_their_tokenizers(tmp_path):
    one = bert(tmp_path / "one", words())
    other = bert(tmp_path / "other", words(), hidden_dropout_prob=0.0)
    given = ["--data", text(tmp_path / "a.txt", 40), "--output", tmp_path / "out", *SHORT]
    assert run("distill", "--teacher", one, other, *given, "--max-length", 8) == 0
    made = config(tmp_path / "out")
    assert made["model_type"] == "bert" and made["mask_token_id"] == 2
    assert AutoTokenizer.from_pretrained(tmp_path / "out").mask_token_id == 2


def test_a_causal_model_is_no_start_of_a_teacher(tmp_path, capsys):
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 16, "vocab_size": 23}
    GPT2LMHeadModel(GPT2Config(**sizes)).save_pretrained(tmp_path / "lm")
    options = ["--data", tokens(tmp_path / "a.jsonl"), "--output", tmp_path / "out", *SHORT]
    assert "convert" in refused(capsys, "teacher", "--init", tmp_path / "lm", *options)


@pytest.mark.parametrize(
    "options",
    mostly_slow([[], ["--lora-rank", "2"], ["--student"]], lambda options: options),
    ids=str,
)
def test_weights_are_trained_in_float32_whatever_the_file_has(options, tmp_path, capsys):
    folder = ddit(tmp_path / "t")
    model = AutoModelForMaskedLM.from_pretrained(folder).bfloat16()
    model.save_pretrained(tmp_path / "half")
    options = [*options, tmp_path / "half"] if options == ["--student"] else options
    data = tokens(tmp_path / "a.jsonl")
    given = ["--teacher", tmp_path / "half", "--data", data, "--output", tmp_path / "out"]
    given += ["--steps", 8, "--batch-size", 8, "--learning-rate", "1e-5", "--ema-decay", 0]
    assert run("distill", *given, "--cpu", *options) == 0
    said = capsys.readouterr().out
    assert "in float32" in said.split(" student:")[1].splitlines()[0]
    if "--lora-rank" in options:
        after = load_file(tmp_path / "out" / "adapter_model.safetensors")
        assert all(weight.dtype == torch.float32 for weight in after.values())
        return
    before = load_file(tmp_path / "half" / "model.safetensors")
    after = load_file(tmp_path / "out" / "model.safetensors")
    assert all(weight.dtype == torch.float32 for weight in after.values())
    moved = sum(int((before[key].float() != after[key]).sum()) for key in before)
    assert moved > 0.5 * sum(weight.numel() for weight in before.values())


def test_a_teacher_may_keep_its_precision_and_a_student_be_asked_to(tmp_path, capsys):
    folder = ddit(tmp_path / "t")
    DDiTForDiscreteDiffusion.from_pretrained(folder).bfloat16().save_pretrained(tmp_path / "half")
    data = tokens(tmp_path / "a.jsonl")
    given = ["--teacher", tmp_path / "half", "--student", folder, "--data", data, *SHORT]
    given += ["--teacher-dtype", "auto", "--output", tmp_path / "out"]
    assert run("distill", *given) == 0
    said = capsys.readouterr().out
    assert "frozen, in bfloat16" in said and "are trained, in float32" in said


def test_adapters_have_an_auxiliary_over_the_same_weights_and_a_noise_input(tmp_path, capsys):
    folder, data = ddit(tmp_path / "t"), tokens(tmp_path / "a.jsonl", 16)
    given = ["--teacher", folder, "--data", data, "--output", tmp_path / "out", "--cpu"]
    given += ["--objective", "law_matching", "--lora-rank", 2, "--noise-dim", 2]
    assert run("distill", *given, "--student-steps", 1, "--steps", 2, "--batch-size", 8) == 0
    lines = dict(line.strip().split(": ", 1) for line in capsys.readouterr().out.splitlines()[:6])
    assert "with the adapters off" in lines["teacher"] and "one copy" in lines["teacher"]
    assert "with a noise input of 2 numbers per position" in lines["student"]
    assert lines["auxiliary"].startswith("adapters of its own over the same weights")
    assert not (tmp_path / "out" / "model.safetensors").exists()
    assert run("sample", tmp_path / "out", "--count", 2, "--steps", 1) == 0


def test_a_run_says_its_recipe_and_its_held_out_loss(tmp_path, capsys):
    folder = ddit(tmp_path / "t")
    data = tokens(tmp_path / "a.jsonl", 40)
    given = ["--teacher", folder, "--data", data, "--split", "train[8:]", "--output"]
    given += [tmp_path / "out", "--objective", '{"type": "law_matching", "maskings": 2}']
    given += ["--eval-split", "train[:8]", "--noise-dim", 2, "--student-steps", 2, "--cpu"]
    given += ["--steps", 2, "--batch-size", 8, "--logging-steps", 1, "--eval-steps", 2]
    given += ["--num-eval-samples", 4, "--weight-decay", 0.1, "--warmup-steps", 1]
    assert run("distill", *given, "--auxiliary-beta1", 0.25, "--collapse-share", 0) == 0
    out = capsys.readouterr()
    lines = dict(line.strip().split(": ", 1) for line in out.out.splitlines()[:6])
    assert lines["objective"].startswith('law_matching (--objective): gradient "pathwise"')
    assert lines["teacher"] == f"{folder}, frozen, in float32"
    assert lines["student"].startswith(f"a copy of {folder}, all weights (no --student")
    assert "with a noise input of 2 numbers per position" in lines["student"]
    assert lines["samples"] == "ancestral steps, 2 network calls each (--student-steps)"
    assert lines["auxiliary"].startswith("a second copy of the teacher")
    assert "eval_loss" in out.out
    assert "\x1b" not in out.out + out.err and "\r" not in out.out + out.err
    state = json.loads((tmp_path / "out" / "checkpoint-2" / "trainer_state.json").read_text())
    logged = [entry for entry in state["log_history"] if "loss" in entry]
    assert [entry["step"] for entry in logged] == [1, 2]
    assert any("eval_loss" in entry for entry in state["log_history"])
    drawn = json.loads((tmp_path / "out" / "samples" / "2.json").read_text())
    assert len(drawn["samples"]) == 4


def test_teachers_are_made_of_what_the_flags_say(tmp_path, capsys):
    names = [ddit(tmp_path / str(i), num_classes=2) for i in range(3)]
    data = tmp_path / "a.jsonl"
    row = {"input_ids": [1, 2, 3, 4, 5, 6, 7, 8], "class_labels": 1}
    data.write_text("\n".join([json.dumps(row)] * 8))
    base = ["distill", "--data", data, "--objective", "ecd", *SHORT, "--output", tmp_path / "out"]
    given = ["--combine", "proxy", "--guidance", 1.5, "--moving-from", 0.5]
    assert run(*base, "--teacher", *names, *given) == 0
    said = capsys.readouterr().out
    assert "0, moved as" in said and "guided by 1.5, at first 50% of it, else the student" in said
    one = ["--teacher", names[0]]
    assert run(*base, *one, "--anchor", 0.3, "--rounds", 2, "--steps", 2, "--overwrite") == 0
    assert "30% of it in later rounds" in capsys.readouterr().out
    assert "of three teachers" in refused(capsys, *base, *one, "--combine", "proxy")
    assert "give --rounds" in refused(capsys, *base, *one, "--anchor", 0.3)
    assert "--lora-rank give --student" in refused(
        capsys, *base, *one, "--guidance", 1, "--lora-rank", 2
    )
    without = ddit(tmp_path / "without")
    other = [*base[:2], tokens(tmp_path / "b.jsonl"), *base[3:]]
    guided = ["--guidance", 1, "--overwrite"]
    assert "has neither (num_classes=0)" in refused(capsys, *other, "--teacher", without, *guided)
    assert "needs a column class_labels" in refused(capsys, *other, *one, *guided)
