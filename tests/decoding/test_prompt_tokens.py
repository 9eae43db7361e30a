"""A prompt means the same everywhere: to `generate`, and to both pipelines."""

from __future__ import annotations

import pytest
import torch
import transformers
from block_models import SHAPE, block_model
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    PreTrainedTokenizerFast,
)

from hf_ddistill import DiscreteDiffusionPipeline
from hf_ddistill.convert import to_block_diffusion

WORDS = ["<pad>", "<s>", "</s>", "<m>", *"abcdefghijklmnopqrstuvwxyz"]
CHAT = "{{ bos_token }} {% for m in messages %}{{ m['content'] }} {% endfor %}z"
SETTINGS = {"max_new_tokens": 6, "eos_token_id": -1}


def tokenizer(template=None, **special):
    words = Tokenizer(models.WordLevel({w: n for n, w in enumerate(WORDS)}, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if template:
        words.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=[("<s>", 1), ("</s>", 2)]
        )
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"} | special
    return PreTrainedTokenizerFast(tokenizer_object=words, chat_template=CHAT, **names)


@pytest.fixture(scope="module")
def lm():
    torch.manual_seed(3)
    shape = SHAPE | {"vocab_size": len(WORDS), "initializer_range": 0.5}
    return AutoModelForCausalLM.from_config(LlamaConfig(**shape))


@pytest.fixture(params=[None, "<s> $A", "<s> $A </s>"], ids=["bare", "begins", "both"])
def model(request, lm):
    return to_block_diffusion(lm, tokenizer(request.param))


def new_tokens(row):
    return row[-SETTINGS["max_new_tokens"] :]


@pytest.mark.parametrize("prompt", ["a b c", "", ["q w e r t z u", "", "x"]])
def test_a_prompt_means_the_same_to_generate_and_to_both_pipelines(model, prompt):
    model, words = model
    words.padding_side = "left"
    encoded = words(prompt if isinstance(prompt, list) else [prompt], padding=True)
    encoded = {name: torch.tensor(rows, dtype=torch.int64) for name, rows in encoded.items()}
    expected = model.generate(**encoded, **SETTINGS)
    pipe = DiscreteDiffusionPipeline.from_model(model, tokenizer=words)
    found = pipe(prompt, **SETTINGS)
    theirs = transformers.pipeline("discrete-diffusion", model=model, tokenizer=words)
    rows = theirs(prompt, **SETTINGS)
    # A list of prompts gives a list of samples for each.
    rows = [row for samples in rows for row in samples] if isinstance(prompt, list) else rows
    for row in range(len(expected)):
        assert new_tokens(found.sequences[row]).tolist() == new_tokens(expected[row]).tolist()
        ids = rows[row]["generated_token_ids"]
        assert new_tokens(ids) == new_tokens(expected[row].tolist())
        assert rows[row]["generated_text"] == found.texts[row]
    if isinstance(prompt, str) and words("a")["input_ids"][0] == 1:
        assert found.sequences[0, 0] == 1 and found.sequences.tolist() == expected.tolist()


def test_without_a_prompt_a_model_starts_with_its_beginning(model):
    model, words = model
    expected = model.generate(torch.tensor([[1]]), **SETTINGS)
    pipe = DiscreteDiffusionPipeline.from_model(model, tokenizer=words)
    assert pipe(**SETTINGS).sequences.tolist() == expected.tolist()
    theirs = transformers.pipeline("discrete-diffusion", model=model, tokenizer=words)
    assert theirs(**SETTINGS)[0]["generated_token_ids"] == expected[0].tolist()


def test_a_chat_as_tokens_is_a_prompt(lm):
    model, words = to_block_diffusion(lm, tokenizer("<s> $A"))
    chat = [{"role": "user", "content": "a b"}]
    encoded = words.apply_chat_template(
        chat, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    assert encoded["input_ids"].tolist() == [[1, 4, 5, 29]]
    expected = model.generate(**encoded, **SETTINGS)
    pipe = DiscreteDiffusionPipeline.from_model(model, tokenizer=words)
    found = pipe(**encoded, **SETTINGS)
    assert found.sequences.tolist() == expected.tolist() and found.texts[0].startswith("a b z")
    # transformers' own pipeline decodes by blocks, too.
    chats = transformers.TextGenerationPipeline(model=model, tokenizer=words)
    said = chats(chat, do_sample=False, **SETTINGS)[0]["generated_text"][-1]
    assert said["role"] == "assistant"
    new = words.decode(new_tokens(expected[0]), skip_special_tokens=True)
    assert said["content"].split() == new.split()


def test_a_stop_string_ends_a_row_with_the_token_that_completes_it(lm):
    model, words = to_block_diffusion(lm, tokenizer("<s> $A"))
    pipe = DiscreteDiffusionPipeline.from_model(model, tokenizer=words)
    free = pipe("a b", do_sample=True, temperature=3.0, generator=torch.Generator().manual_seed(0),
                unmasking="static", **SETTINGS | {"max_new_tokens": 12})  # fmt: skip
    new = free.sequences[0, 3:].tolist()
    stop = words.decode(new[4:6])
    settings = {"do_sample": True, "temperature": 3.0, "unmasking": "static"}
    settings |= SETTINGS | {"max_new_tokens": 12, "stop_strings": [stop, "never"]}
    found = pipe("a b", generator=torch.Generator().manual_seed(0), **settings)
    assert found.sequences[0, 3:].tolist() == new[:6] + [0] * 6
    assert found.texts[0] == f"a b {words.decode(new[:6], skip_special_tokens=True)}"
    assert found.calls[0] < free.calls[0]
    # What stands in the prompt already stops nothing.
    whole = pipe("a b", generator=torch.Generator().manual_seed(0), **settings | {
        "stop_strings": "a b"})  # fmt: skip
    assert whole.sequences.tolist() == free.sequences.tolist() or "a b" in free.texts[0][4:]


def test_a_masked_model_holds_what_the_tokenizer_puts_first_and_no_end():
    words = tokenizer("<s> $A </s>", mask_token="<m>")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=16,
    )  # fmt: skip
    config.mask_token_id = 3
    pipe = DiscreteDiffusionPipeline.from_model(BertForMaskedLM(config), tokenizer=words)
    pipe.set_progress_bar_config(disable=True)
    held = []

    def look(pipe, step, time, tensors):
        held.append(tensors["sequences"].clone())
        return {}

    found = pipe(["a b", "c <m> d"], length=8, num_inference_steps=4, callback_on_step_end=look)
    for sequences in (*held, found.sequences):
        assert sequences[0, :3].tolist() == [1, 4, 5]
        assert sequences[1, [0, 1, 3]].tolist() == [1, 6, 7]
    # Behind the prompt everything is generated; the tokenizer's end is not held.
    assert (held[0][:, 4:] == 3).any()


@pytest.mark.slow
def test_a_stock_trainer_trains_a_block_model_on_masked_tokens(lm, tmp_path):
    model, words = to_block_diffusion(lm, tokenizer(mask_token="<m>"))
    rows = [{"input_ids": [(start + step) % 20 + 4 for step in range(12)]} for start in range(8)]
    args = transformers.TrainingArguments(
        tmp_path, max_steps=4, per_device_train_batch_size=2, gradient_accumulation_steps=2,
        learning_rate=1e-2, report_to="none", use_cpu=True, disable_tqdm=True, logging_steps=1,
    )  # fmt: skip
    trainer = transformers.Trainer(
        model,
        args,
        transformers.DataCollatorForLanguageModeling(words, mlm_probability=0.5),
        train_dataset=rows,
        eval_dataset=rows,
    )
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < before
    # A mean over tokens, whatever the accumulation: of the size of the loss in evaluation.
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(logged) == 4 and logged[0] == pytest.approx(before, rel=0.5)


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        (torch.tensor([3, 4]), r"shape \(rows, tokens\), of at least one row, got shape \(2,\)"),
        (torch.zeros((0, 3), dtype=torch.int64), r"at least one row, got shape \(0, 3\)"),
        (torch.tensor([[3.0]]), r"are token ids .* of torch\.float32"),
        (torch.tensor([[3, 40]]), r"A prompt holds 40, and the model's tokens lie in \[0, 40\)"),
        (torch.tensor([[-1, 3]]), "A prompt holds -1"),
    ],
)
def test_what_is_no_prompt_is_refused_in_one_sentence(ids, said):
    with pytest.raises(ValueError, match=said):
        block_model().generate(ids, max_new_tokens=4)


def test_what_stands_at_padding_need_be_no_token():
    padded, mask = torch.tensor([[-100, 3]]), torch.tensor([[0, 1]])
    alone = block_model().generate(torch.tensor([[3]]), max_new_tokens=4)
    assert torch.equal(block_model().generate(padded, mask, max_new_tokens=4)[:, 1:], alone)
