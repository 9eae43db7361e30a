"""What a pipeline saves opens again, whole, by every door; what does not is refused."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from diffusers import DiffusionPipeline
from diffusers.utils import logging as loggers
from peft import LoraConfig, PromptTuningConfig, get_peft_model, inject_adapter_in_model
from peft.tuners.lora import Linear
from peft.tuners.tuners_utils import BaseTunerLayer
from pipeline_cases import letters, made, piped, seeded
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM

from hf_ddistill.hub import load_pipeline
from hf_ddistill.pipelines import DiscreteDiffusionPipeline
from hf_ddistill.processes import Uniform
from hf_ddistill.schedulers import AncestralScheduler, JumpScheduler

TASK = "discrete-diffusion"
LORA = LoraConfig(r=2, target_modules=["qkv", "up", "embed_tokens"], init_lora_weights=False)


def drawn(pipe, **settings):
    pipe.set_progress_bar_config(disable=True)
    return pipe(batch_size=6, num_inference_steps=3, generator=seeded(), **settings).sequences


def bert():
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(vocab_size=6, max_position_embeddings=7, intermediate_size=8, **sizes)
    return BertForMaskedLM(config).eval()


def test_a_variant_that_was_saved_is_opened_by_its_name(tmp_path):
    pipe = piped(made())
    pipe.save_pretrained(tmp_path, variant="fp16")
    assert (tmp_path / "model.fp16.safetensors").is_file()
    assert torch.equal(
        drawn(DiscreteDiffusionPipeline.from_pretrained(tmp_path, variant="fp16")), drawn(pipe)
    )
    with pytest.raises(ValueError, match="no file named model.safetensors"):
        DiscreteDiffusionPipeline.from_pretrained(tmp_path)


def test_half_precision_on_a_cpu_is_said_to_fail_and_runs(tmp_path, caplog):
    piped(made()).save_pretrained(tmp_path)
    pipe = DiscreteDiffusionPipeline.from_pretrained(tmp_path, dtype=torch.float16)
    loggers.enable_propagation()
    try:
        pipe = pipe.to("cpu")
    finally:
        loggers.disable_propagation()
    assert not caplog.records
    assert pipe.model.dtype == torch.float16 and drawn(pipe).shape[0] == 6


@pytest.mark.parametrize("how", ["peft", "native"])
def test_adapters_are_saved_merged_and_the_model_in_memory_keeps_them(how, tmp_path):
    model = made()
    base = drawn(piped(model))
    if how == "peft":
        model = get_peft_model(model, LORA).eval()
    else:
        model = inject_adapter_in_model(LORA, model).eval()
    pipe = piped(model)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    expected = drawn(pipe)
    assert not torch.equal(expected, base), "the adapters do nothing: no test"
    with pytest.warns(UserWarning, match="saved merged into its weights"):
        pipe.save_pretrained(tmp_path)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not list(tmp_path.rglob("adapter*"))
    for opened in (
        DiscreteDiffusionPipeline.from_pretrained(tmp_path),
        load_pipeline(str(tmp_path)),
    ):
        assert type(opened.model).__name__ == "DDiTForDiscreteDiffusion"
        assert torch.equal(drawn(opened), expected)
    assert torch.equal(drawn(pipe), expected)


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
def test_adapters_on_tied_embeddings_are_saved_as_they_sample(tmp_path):
    pipe = piped(get_peft_model(made(tie_word_embeddings=True), LORA).eval())
    with pytest.warns(UserWarning, match="merged"):
        pipe.save_pretrained(tmp_path)
    assert torch.equal(drawn(DiscreteDiffusionPipeline.from_pretrained(tmp_path)), drawn(pipe))


def test_adapters_that_cannot_be_merged_are_refused_before_a_file_is_written(tmp_path, monkeypatch):
    pipe = piped(get_peft_model(made(), LORA))
    monkeypatch.setattr(Linear, "merge", BaseTunerLayer.merge)
    with pytest.raises(ValueError, match="the kind Linear .* which cannot be merged"):
        pipe.save_pretrained(tmp_path / "pipe")
    assert not (tmp_path / "pipe").exists()


def test_learned_prompts_are_refused_when_the_pipeline_is_made():
    model = bert()
    model.config.mask_token_id = 5
    settings = {"num_virtual_tokens": 2, "num_layers": 1, "token_dim": 8}
    settings |= {"task_type": "FEATURE_EXTRACTION", "num_attention_heads": 2}
    with pytest.raises(ValueError, match="PROMPT_TUNING put tokens before the input"):
        piped(get_peft_model(model, PromptTuningConfig(**settings)))


def test_the_pipeline_of_diffusers_opens_our_folder(tmp_path):
    pipe = piped(made(Uniform(6)), JumpScheduler, letters(), temperature=0.3)
    pipe.save_pretrained(tmp_path)
    opened = DiffusionPipeline.from_pretrained(tmp_path)
    assert type(opened) is DiscreteDiffusionPipeline
    assert type(opened.scheduler) is JumpScheduler and opened.tokenizer is not None
    assert torch.equal(drawn(opened), drawn(pipe))


def test_the_sampler_that_was_saved_is_the_one_that_runs_through_both_doors(tmp_path):
    pipe = piped(made(), JumpScheduler, temperature=0.3, num_inference_steps=5)
    pipe.save_pretrained(tmp_path)
    expected = pipe(batch_size=6, generator=seeded()).sequences
    other = piped(made(), num_inference_steps=5)(batch_size=6, generator=seeded()).sequences
    assert not torch.equal(expected, other), "the scheduler makes no difference: no test"
    opened = DiscreteDiffusionPipeline.from_pretrained(tmp_path)
    assert torch.equal(opened(batch_size=6, generator=seeded()).sequences, expected)
    generate = transformers.pipeline(TASK, model=str(tmp_path), device="cpu")
    rows = generate(num_return_sequences=6, generator=seeded())
    assert [row["generated_token_ids"] for row in rows] == expected.tolist()
    # One that is given, and settings that are given, go before.
    ancestral = AncestralScheduler.from_config(pipe.scheduler.config, temperature=1.0)
    rows = generate(num_return_sequences=6, generator=seeded(), scheduler=ancestral)
    assert [row["generated_token_ids"] for row in rows] == other.tolist()
    # A folder that lost its list of parts still has its scheduler.
    (tmp_path / "model_index.json").unlink()
    opened = DiscreteDiffusionPipeline.from_pretrained(tmp_path)
    assert type(opened.scheduler) is JumpScheduler and opened.scheduler.config.temperature == 0.3


def test_a_pipeline_of_transformers_saves_its_scheduler_along(tmp_path):
    piped(made(), JumpScheduler, temperature=0.3).save_pretrained(tmp_path / "a")
    generate = transformers.pipeline(TASK, model=str(tmp_path / "a"), device="cpu")
    generate.save_pretrained(tmp_path / "b")
    again = DiscreteDiffusionPipeline.from_pretrained(tmp_path / "b").scheduler
    assert type(again) is JumpScheduler and again.config.temperature == 0.3


@pytest.mark.parametrize("model", [made, bert], ids=["ours", "theirs"])
def test_missing_weights_are_refused_by_every_door(model, tmp_path):
    model = model()
    model.config.mask_token_id = 5
    piped(model).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    for key in sorted(tensors)[::2]:
        del tensors[key]
    save_file(tensors, file, {"format": "pt"})
    message = r"lack \d+ of the \d+ tensors of .*which would be random: "
    with pytest.raises(ValueError, match=message):
        DiscreteDiffusionPipeline.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        load_pipeline(str(tmp_path))
    with pytest.raises(LookupError, match=message):
        transformers.pipeline(TASK, model=str(tmp_path))
    (tmp_path / "model_index.json").unlink()
    with pytest.raises(ValueError, match=message):
        DiscreteDiffusionPipeline.from_pretrained(tmp_path)


def test_a_pipeline_is_loaded_in_the_dtype_that_was_asked_for(tmp_path):
    piped(made()).save_pretrained(tmp_path)
    for given in ({"dtype": torch.bfloat16}, {"dtype": {"default": torch.bfloat16}}):
        pipe = DiscreteDiffusionPipeline.from_pretrained(tmp_path, **given)
        assert pipe.model.dtype == torch.bfloat16
        assert drawn(pipe).max() < 5


def test_optional_components_may_be_left_out_and_come_back_as_none(tmp_path):
    pipe = piped(made(), tokenizer=letters())
    pipe.tokenizer = None
    pipe.save_pretrained(tmp_path)
    opened = DiscreteDiffusionPipeline.from_pretrained(tmp_path)
    assert opened.tokenizer is None and torch.equal(drawn(opened), drawn(pipe))
    pipe = DiscreteDiffusionPipeline.from_pretrained(tmp_path, tokenizer=letters())
    assert pipe("ab", num_inference_steps=1).texts[0].startswith("ab")


def test_a_folder_whose_list_of_parts_is_broken_is_one_sentence(tmp_path):
    piped(made()).save_pretrained(tmp_path)
    index = tmp_path / "model_index.json"
    whole = json.loads(index.read_text())
    for broken in (
        "{",
        "[]",
        json.dumps(whole | {"model": None}),
        json.dumps(whole | {"model": 3}),
    ):
        index.write_text(broken)
        with pytest.raises(ValueError, match="names no model of a pipeline"):
            DiscreteDiffusionPipeline.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds no model"):
        DiscreteDiffusionPipeline.from_pretrained(tmp_path / "scheduler")
