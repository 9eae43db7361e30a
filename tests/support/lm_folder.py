"""A folder with a language model."""

from __future__ import annotations

import pytest
from block_runs import counting_lm
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    """The counting model with its tokenizer: eleven words in twelve rows of the embeddings."""
    folder = tmp_path_factory.mktemp("lm")
    counting_lm().save_pretrained(folder)
    names = ["<s>", "</s>", "<pad>", *"01234567"]
    inner = Tokenizer(WordLevel({name: i for i, name in enumerate(names)}, unk_token="<pad>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    PreTrainedTokenizerFast(tokenizer_object=inner, **special).save_pretrained(folder)
    return folder
