"""Tokenizers made of the data give back what they read."""

from __future__ import annotations

import pytest
from transformers import AutoTokenizer

from hf_ddistill.models.made_tokenizers import is_made, made_tokenizer
from hf_ddistill.models.tokenizers import load_tokenizer

TEXTS = ["Hello,\n\n  wörld! 漢字 \t x  ", "a b c\r\n", "Hello, hello."] * 9


@pytest.mark.parametrize("name", ["characters", "bytes", "bpe:270"])
def test_white_space_is_lost(name, tmp_path):
    made = made_tokenizer(name, lambda: TEXTS)
    made.save_pretrained(tmp_path)
    for tokenizer in (made, AutoTokenizer.from_pretrained(tmp_path)):
        for text in TEXTS[:3]:
            ids = tokenizer(text)["input_ids"]
            assert tokenizer.decode(ids) == text
            ended = [*ids, tokenizer.eos_token_id]
            assert tokenizer.decode(ended, skip_special_tokens=True) == text
        last = max(tokenizer.get_vocab().values())
        assert (tokenizer.eos_token_id, tokenizer.mask_token_id) == (last - 1, last)


def test_sizes_are_others_than_asked():
    known = {character for text in TEXTS for character in text}
    assert len(made_tokenizer("characters", lambda: TEXTS)) == len(known) + 3
    assert len(made_tokenizer("bytes", lambda: 1 / 0)) == 258
    pairs = made_tokenizer("bpe:270", lambda: TEXTS)
    assert len(pairs) == 270
    assert len(pairs(TEXTS[0])["input_ids"]) < len(TEXTS[0].encode())


def test_what_was_not_in_the_data_stops_a_tokenizer():
    characters = made_tokenizer("characters", lambda: ["ab"])
    assert characters("azb")["input_ids"] == [0, characters.unk_token_id, 1]
    pairs = made_tokenizer("bpe:258", lambda: ["ab"])
    assert pairs.decode(pairs("z☃")["input_ids"]) == "z☃"


@pytest.mark.parametrize(
    ("name", "said"),
    [("bpe:12", "at least 258"), ("bpe:", "at least 258"), ("bpe:9999", "take bpe:"), ("x", "not")],
)
def test_a_wrong_name_is_a_traceback(name, said):
    assert is_made(name) == name.startswith("bpe")
    with pytest.raises(ValueError, match=said):
        made_tokenizer(name, lambda: TEXTS)


@pytest.mark.parametrize("name", ["bytes", "characters", "bpe:300"])
def test_a_tokenizer_that_is_made_is_asked_of_the_hub(name):
    with pytest.raises(ValueError, match=f"The tokenizer {name} is made of data"):
        load_tokenizer(name)
