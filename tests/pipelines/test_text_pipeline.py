"""What users of `transformers.pipeline` do with any task, done with ours."""

from __future__ import annotations

import pytest
import torch
import transformers
from pipeline_cases import letters, made, piped, seeded
from tokenizers import Tokenizer
from tokenizers.models import BPE, WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch.utils.data import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from hf_ddistill.convert import to_block_diffusion
from hf_ddistill.pipelines import DiscreteDiffusionPipeline
from hf_ddistill.processes import Absorbing


class Prompts(Dataset):
    """A data set of prompts."""

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return ["a", "bc", "_d"][index]


@pytest.fixture
def generate():
    pipe = transformers.pipeline(
        "discrete-diffusion", model=made(), tokenizer=letters(), device="cpu"
    )
    pipe.rows = []
    pipe.model.register_forward_pre_hook(
        lambda _, arguments, keywords: pipe.rows.append(len(keywords["input_ids"])),
        with_kwargs=True,
    )
    return pipe


def test_prompts_of_every_kind_give_a_list_of_samples_each(generate):
    one = generate("a", num_return_sequences=2, num_inference_steps=1)
    assert [row["generated_text"][0] for row in one] == ["a", "a"]
    assert len(generate(num_return_sequences=3, num_inference_steps=1)) == 3
    several = generate(["a", "bc"], num_return_sequences=2, num_inference_steps=1)
    begun = [[row["generated_text"][0] for row in rows] for rows in several]
    assert begun == [["a", "a"], ["b", "b"]]
    assert generate([], num_inference_steps=1) == []
    for stream in ((text for text in Prompts()), Prompts()):
        found = generate(stream, num_inference_steps=1)
        assert not isinstance(found, list), "a stream is read at once"
        assert [rows[0]["generated_text"][0] for rows in found][:2] == ["a", "b"]


def test_batch_size_is_how_many_prompts_run_together(generate):
    prompts = ["a", "b", "c", "d", "ab"]
    for size, rows in ((None, [1] * 5), (2, [2, 2, 1]), (8, [5])):
        generate.rows.clear()
        generate(prompts, batch_size=size, num_inference_steps=1)
        assert generate.rows == rows
    generate.rows.clear()
    generate(prompts, batch_size=2, num_return_sequences=3, num_inference_steps=1)
    assert generate.rows == [6, 6, 3]
    with pytest.raises(ValueError, match="batch_size=4 is the number of prompts.*num_return"):
        generate("a", batch_size=4)


def test_samples_do_not_depend_on_the_batch_size(generate):
    prompts, alone = ["a", "bc", "_d"], [seeded(i) for i in range(6)]
    settings = {"num_return_sequences": 2, "num_inference_steps": 3}
    expected = generate(prompts, generator=alone, **settings)
    for size in (2, 3):
        again = [seeded(i) for i in range(6)]
        assert generate(prompts, batch_size=size, generator=again, **settings) == expected
    with pytest.raises(ValueError, match="generators for"):
        generate(prompts, generator=[seeded(i) for i in range(7)], **settings)


def test_given_tokens_and_labels_are_repeated_for_each_sample():
    model = made(num_classes=3)
    generate = transformers.pipeline("discrete-diffusion", model=model, device="cpu")
    given = {"input_ids": torch.tensor([[0, 1], [2, 3]]), "class_labels": [0, 1]}
    rows = generate(**given, num_return_sequences=2, num_inference_steps=1)
    assert [row["generated_token_ids"][:2] for row in rows] == [[0, 1]] * 2 + [[2, 3]] * 2
    assert len(generate(class_labels=[0, 1, 2], num_inference_steps=1)) == 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"inputs": [1]}, "a string, got 1"),
        ({"inputs": 7}, "a string or some strings, got int"),
        ({"inputs": [{"text": "a"}]}, "KeyDataset"),
        ({"inputs": "a", "num_return_sequences": 0}, "num_return_sequences must be an integer"),
        ({"inputs": ["a"], "batch_size": 1.5}, "batch_size must be an integer"),
    ],
)
def test_what_is_no_prompt_or_no_number_is_refused(generate, call, message):
    with pytest.raises(ValueError, match=message):
        generate(**call)


def test_characters_that_the_tokenizer_leaves_out_are_left_out_of_a_prompt_in_silence():
    inner = Tokenizer(BPE(vocab={"a": 0, "b": 1, "ab": 2, "[M]": 3}, merges=[("a", "b")]))
    pipe = piped(made(Absorbing(4, 3)), tokenizer=PreTrainedTokenizerFast(tokenizer_object=inner))
    assert pipe("ab", num_inference_steps=1).sequences[0, 0] == 2
    with pytest.raises(ValueError, match="no token for 'c', 'é', nor one for what is unknown"):
        pipe("abécab", num_inference_steps=1)
    words = Tokenizer(WordLevel({"one": 0, "two": 1, "[M]": 3}))
    words.pre_tokenizer = WhitespaceSplit()
    pipe.tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)
    assert pipe("two one", num_inference_steps=1).sequences[0, :2].tolist() == [1, 0]
    with pytest.raises(ValueError, match="has no token for a part of"):
        pipe("two three", num_inference_steps=1)


def test_a_short_prompt_is_padded_with_the_pad_token_and_not_with_token_0():
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    config = LlamaConfig(**sizes, vocab_size=6, num_attention_heads=2, max_position_embeddings=16)
    model, _ = to_block_diffusion(LlamaForCausalLM(config), mask_token_id=5)
    pipe = DiscreteDiffusionPipeline.from_model(model)
    given = {"input_ids": torch.tensor([[0, 1, 2], [1, 2, 3]]), "max_new_tokens": 2}
    given["attention_mask"] = torch.tensor([[0, 0, 1], [1, 1, 1]])
    for owner in (model.config, model.generation_config):
        owner.pad_token_id = 4
    assert pipe(**given).sequences[:, :3].tolist() == [[4, 4, 2], [1, 2, 3]]
