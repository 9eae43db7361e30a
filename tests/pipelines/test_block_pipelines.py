"""A block-diffusion folder: settings that stay with it, and both pipelines that open it."""

# ruff: noqa: F811 (the arguments of a test are the fixtures that were imported)
from __future__ import annotations

import json
import shutil

import pytest
import torch
import transformers
from block_folder import folder, model, tokenizer  # noqa: F401
from block_models import HALF

from hf_ddistill import DDiTConfig, DDiTForDiscreteDiffusion, DiscreteDiffusionPipeline
from hf_ddistill.models import BlockDiffusionGenerationConfig, BlockDiffusionLM
from hf_ddistill.unmasking import Prophet

PROMPTS = ["a b c", "q w e r t z u", "x"]


def alone(model, tokenizer, prompt, **settings):
    """The new tokens behind one prompt."""
    ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)["input_ids"]
    return model.generate(ids, **settings)[0, ids.shape[1] :].tolist()


def test_settings_of_generation_stay_with_a_model(folder, model):
    saved = json.loads((folder / "generation_config.json").read_text())
    assert saved["unmasking"]["otherwise"] == {"type": "threshold", "threshold": 0.5}
    assert "block_size" not in saved and "steps_per_block" not in saved
    for opened in (model, BlockDiffusionLM.from_pretrained(folder)):
        config = opened.generation_config
        assert isinstance(config, BlockDiffusionGenerationConfig)
        assert config.max_new_tokens == 6 and config.max_active_blocks == 2
        plan = opened.decoding_plan(config)
        assert plan.unmasking == Prophet(otherwise=HALF) and plan.pipelining.max_blocks == 2
        assert plan.eos == (1,) and plan.block_size == 4


def test_a_broken_generation_config_is_told_not_replaced(folder, tmp_path):
    broken = shutil.copytree(folder, tmp_path / "broken")
    (broken / "generation_config.json").write_text('{"unmasking": ')
    with pytest.raises(OSError, match="not a valid JSON"):
        BlockDiffusionLM.from_pretrained(broken)
    (broken / "generation_config.json").unlink()
    assert BlockDiffusionLM.from_pretrained(broken).generation_config.max_active_blocks is None


def test_settings_of_a_call_win_and_do_not_stay(model, tokenizer):
    assert len(alone(model, tokenizer, "a b")) == 6
    assert len(alone(model, tokenizer, "a b", max_new_tokens=9)) == 9
    given = BlockDiffusionGenerationConfig(max_new_tokens=3, unmasking="static")
    assert len(alone(model, tokenizer, "a b", generation_config=given)) == 3
    assert len(alone(model, tokenizer, "a b", generation_config=given, max_new_tokens=4)) == 4
    assert model.generation_config.max_new_tokens == 6
    assert model.generation_config.max_active_blocks == 2 and given.max_new_tokens == 3


def test_a_rule_that_there_is_not_is_no_setting():
    with pytest.raises(ValueError, match="Unknown unmasking 'hope'"):
        BlockDiffusionGenerationConfig(unmasking="hope")


def test_transformers_pipeline_decodes_prompts_of_mixed_lengths(folder, model, tokenizer):
    pipe = transformers.pipeline("discrete-diffusion", model=str(folder))
    found = pipe(PROMPTS, max_new_tokens=5, unmasking=HALF, eos_token_id=-1)
    for prompt, (sample,) in zip(PROMPTS, found, strict=True):
        new = alone(model, tokenizer, prompt, max_new_tokens=5, unmasking=HALF, eos_token_id=-1)
        assert sample["generated_token_ids"][-5:] == new
        assert sample["generated_text"] == f"{prompt} {tokenizer.decode(new)}"
        assert sample["calls"] * sample["tokens_per_call"] == pytest.approx(5)


def test_temperature_draws_and_a_generator_decides(folder):
    pipe = transformers.pipeline("discrete-diffusion", model=str(folder))
    one, other, third = (
        pipe(
            "a b",
            num_return_sequences=2,
            temperature=1.0,
            generator=torch.Generator().manual_seed(seed),
        )
        for seed in (0, 0, 1)
    )
    assert one == other != third and one[0] != one[1]


def test_our_pipeline_decodes_and_comes_back_from_its_own_folder(folder, tmp_path):
    pipe = DiscreteDiffusionPipeline.from_pretrained(folder)
    found = pipe(PROMPTS, max_new_tokens=4)
    assert [text.startswith(prompt) for text, prompt in zip(found.texts, PROMPTS, strict=True)]
    assert found.num_network_calls == int(found.calls.max()) and len(found.tokens_per_call) == 3
    pipe.save_pretrained(tmp_path)
    again = DiscreteDiffusionPipeline.from_pretrained(tmp_path)
    assert again(PROMPTS, max_new_tokens=4).texts == found.texts
    assert again.model.generation_config.max_active_blocks == 2


def test_our_pipeline_takes_tokens_with_padding(folder, model):
    pipe = DiscreteDiffusionPipeline.from_pretrained(folder)
    ids = torch.tensor([[0, 0, 5], [7, 8, 9]])
    mask = torch.tensor([[0, 0, 1], [1, 1, 1]])
    found = pipe(input_ids=ids, attention_mask=mask, max_new_tokens=4, output_type="tokens")
    assert found.texts is None
    assert torch.equal(found.sequences, model.generate(ids, mask, max_new_tokens=4))
    one = pipe(input_ids=ids[0, 2:], batch_size=2, max_new_tokens=4, return_dict=False)
    assert (one[0][:, -4:] == found.sequences[0, -4:]).all()


def test_all_positions_at_once_go_through_the_scheduler(folder):
    pipe = DiscreteDiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    found = pipe("a b", length=10, num_inference_steps=3)
    assert found.sequences.shape == (1, 10) and found.calls is None
    mask = pipe.model.config.mask_token_id
    gap = torch.tensor([2, mask, 4, 5])
    filled = pipe(input_ids=gap, infill=gap == mask, length=4, num_inference_steps=2).sequences
    assert filled[0, [0, 2, 3]].tolist() == [2, 4, 5] and filled[0, 1] != mask


def test_a_callback_sees_each_call_and_can_end_the_decoding(folder):
    pipe = DiscreteDiffusionPipeline.from_pretrained(folder)
    settings = {"max_new_tokens": 8, "unmasking": "static", "max_active_blocks": 1}
    settings |= {"eos_token_id": -1}
    whole = pipe("a b c d", **settings)
    seen = []

    def watch(pipe, call, time, tensors):
        seen.append(tensors["sequences"])
        pipe._interrupt = call == 5
        return tensors

    found = pipe("a b c d", callback_on_step_end=watch, **settings)
    mask = pipe.model.config.mask_token_id
    # One token a call in blocks of four; the interrupt comes after two of the second block.
    assert [int((canvas[0, 4:8] == mask).sum()) for canvas in seen] == [3, 2, 1, 0, 0, 0]
    assert seen[5][0, :8].tolist() == whole.sequences[0, :8].tolist() and found.calls[0] == 6
    decided = int((seen[5][0, 8:] == mask).long().argmax())
    expected = whole.sequences[0, : 8 + decided].tolist() + [0] * (4 - decided)
    assert found.sequences[0].tolist() == expected
    assert pipe("a b c d", **settings).sequences.tolist() == whole.sequences.tolist()


def test_decoding_runs_on_the_execution_device_and_frees_the_hooks(folder, monkeypatch):
    pipe, freed, seen = DiscreteDiffusionPipeline.from_pretrained(folder), [], []
    monkeypatch.setattr(pipe, "maybe_free_model_hooks", lambda: freed.append(len(seen)))
    other = torch.device("meta")
    monkeypatch.setattr(DiscreteDiffusionPipeline, "_execution_device", other)

    def generate(input_ids, attention_mask, **settings):
        seen.append((input_ids.device, attention_mask.device))
        raise RuntimeError("far enough")

    monkeypatch.setattr(pipe.model, "generate", generate)
    with pytest.raises(RuntimeError, match="far enough"):
        pipe("a b", max_new_tokens=3)
    assert seen == [(other, other)] and not freed
    monkeypatch.undo()
    monkeypatch.setattr(pipe, "maybe_free_model_hooks", lambda: freed.append(len(seen)))
    pipe("a b", max_new_tokens=3)
    assert freed == [1]


PASSED = {"num_return_sequences": 3, "suppress_tokens": [2, 3, 4], "bad_words_ids": [[7], [8, 9]]}
PASSED |= {"no_repeat_ngram_size": 1, "repetition_penalty": 3.0, "min_new_tokens": 4, "min_p": 0.3}
PASSED |= {"begin_suppress_tokens": [11], "stop_strings": ["a", "e", "i"], "max_time": 50.0}
PASSED |= {"max_length": 9}


@pytest.mark.parametrize("name", PASSED)
def test_a_setting_of_generate_passes_through_both_pipelines(name, folder, model, tokenizer):
    settings = {name: PASSED[name], "do_sample": True, "temperature": 2.0}
    settings |= {} if name == "max_length" else {"max_new_tokens": 6}
    rows = PASSED.get("num_return_sequences") if name == "num_return_sequences" else 1
    draws = [
        {"generator": [torch.Generator().manual_seed(row) for row in range(rows)]} for _ in range(3)
    ]
    ids = tokenizer("a b c", return_tensors="pt")["input_ids"]
    expected = model.generate(ids, **settings, **draws[0], tokenizer=tokenizer).tolist()
    ours = DiscreteDiffusionPipeline.from_pretrained(folder)
    assert ours("a b c", **settings, **draws[1]).sequences.tolist() == expected
    theirs = transformers.pipeline("discrete-diffusion", model=model, tokenizer=tokenizer)
    found = theirs("a b c", **settings, **draws[2])
    assert [row["generated_token_ids"] for row in found] == expected and len(found) == rows


def test_short_prompts_are_padded_with_the_pad_token(folder):
    pipe = DiscreteDiffusionPipeline.from_pretrained(folder)
    pipe.model.generation_config.pad_token_id = pipe.model.config.pad_token_id = None
    found = pipe(["a b c", "x"], max_new_tokens=2, eos_token_id=-1).sequences
    assert found[1, :2].tolist() == [0, 0]  # the tokenizer's, for want of the model's own
    pipe.tokenizer.pad_token = None
    found = pipe(["a b c", "x"], max_new_tokens=2).sequences
    assert found[1, :2].tolist() == [1, 1]  # the end token
    found = pipe(["a b c", "x"], max_new_tokens=2, pad_token_id=28).sequences
    assert found[1, :2].tolist() == [28, 28]


APART = {
    "both": ({"length": 9, "max_new_tokens": 3}, "max_new_tokens: for decoding behind a prompt"),
    "labels": ({"class_labels": 2}, "class_labels: not for BlockDiffusionLM"),
    "guidance": ({"guidance_scale": 2.0}, "guidance_scale: not for BlockDiffusionLM"),
    "a callback that changes": (
        {"callback_on_step_end": lambda pipe, call, time, tensors: {"sequences": torch.zeros(1)}},
        "may look at `sequences` and not replace them",
    ),
    "a callback that asks for more": (
        {"callback_on_step_end": print, "callback_on_step_end_tensor_inputs": ["sampled_probs"]},
        r"asks for \['sampled_probs'\]",
    ),
    "scores": ({"output_scores": True}, "output_scores=True: the pipeline gives sequences and"),
    "beams": ({"num_beams": 4}, "generate does not act on num_beams=4: blocks are decoded once"),
    "unknown": ({"max_tokens": 3}, "generate takes no max_tokens"),
    "a mask": ({"prompt": "a <|mask|>"}, "to fill tokens in, use DiscreteDiffusionPipeline with"),
    "too many generators": ({"generator": [torch.Generator()] * 2}, "Got 2 generators for 1"),
}


@pytest.mark.parametrize(("arguments", "message"), APART.values(), ids=APART.keys())
def test_arguments_that_do_not_apply_are_refused_in_one_sentence(folder, arguments, message):
    pipe = DiscreteDiffusionPipeline.from_pretrained(folder)
    with pytest.raises(ValueError, match=message):
        pipe(**{"prompt": "a b"} | arguments)


def test_another_model_does_not_decode_by_blocks():
    config = DDiTConfig(vocab_size=6, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    config.mask_token_id = 5
    pipe = DiscreteDiffusionPipeline.from_model(DDiTForDiscreteDiffusion(config))
    with pytest.raises(ValueError, match="max_new_tokens: not for DDiTForDiscreteDiffusion"):
        pipe(length=4, max_new_tokens=3)
