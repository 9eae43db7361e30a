"""A block-diffusion model of letters with its tokenizer and its settings, in a folder: fixtures."""

from __future__ import annotations

import pytest
import torch
import transformers
from block_models import HALF, SHAPE
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    LlamaConfig,
    PreTrainedTokenizerFast,
)

from hf_ddistill.convert import to_block_diffusion
from hf_ddistill.unmasking import Prophet, Unmasking

WORDS = ["<pad>", "<eos>", *"abcdefghijklmnopqrstuvwxyz"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model of letters with its tokenizer and its settings, saved."""
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    words = Tokenizer(models.WordLevel(vocab=vocabulary, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<eos>"
    )
    torch.manual_seed(0)
    shape = SHAPE | {"vocab_size": len(WORDS), "eos_token_id": 1, "initializer_range": 0.5}
    lm = AutoModelForCausalLM.from_config(LlamaConfig(**shape))
    model, tokenizer = to_block_diffusion(lm, tokenizer)
    model.generation_config.max_new_tokens = 6
    model.generation_config.unmasking = Prophet(otherwise=Unmasking.from_config(HALF))
    model.generation_config.max_active_blocks = 2
    path = tmp_path_factory.mktemp("model")
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def model(folder):
    return AutoModelForMaskedLM.from_pretrained(folder)


@pytest.fixture(scope="module")
def tokenizer(folder):
    return transformers.AutoTokenizer.from_pretrained(folder)
