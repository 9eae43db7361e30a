"""What it costs to make rows of texts: tokens copied, bytes kept, and nothing the second time."""

from __future__ import annotations

import numpy as np
import pytest
from datasets import Dataset, load_dataset
from test_training_data import TEXT, tokenizer

from hf_ddistill.training.preparation import prepared
from hf_ddistill.training.texts import Packing, Texts


def packed(documents, length):
    packing = Packing(length)
    return [row.tolist() for ids in documents for row in packing.add(ids)]


@pytest.mark.parametrize("size", [1, 3, 7, 8, 50, 1000])
def test_rows_are_those_of_the_whole_stream_whatever_the_documents(size):
    stream = list(range(1000))
    documents = [stream[i : i + size] for i in range(0, 1000, size)] + [[]]
    assert packed(documents, 7) == [stream[7 * i : 7 * i + 7] for i in range(1000 // 7)]


@pytest.mark.parametrize("documents", [1, 1000], ids=["one_long", "many_short"])
def test_packing_copies_each_token_a_few_times_however_long_the_text_is(monkeypatch, documents):
    copied = []

    def counting(pieces, plain=np.concatenate):
        out = plain(pieces)
        copied.append(len(out))
        return out

    monkeypatch.setattr(np, "concatenate", counting)
    for tokens in (10_000, 80_000):
        copied.clear()
        packed([range(tokens // documents)] * documents, 16)
        assert sum(copied) < 2.5 * tokens


def test_a_token_in_memory_takes_four_bytes():
    data = Dataset.from_dict({"text": [TEXT[:100]] * 50})
    found = prepared(data, tokenizer(), 64)
    assert found.data.nbytes < 4.2 * 64 * len(found)
    assert found.features["input_ids"].feature.dtype == "int32"


def test_rows_of_a_data_set_in_files_are_found_again_by_the_next_run(tmp_path, monkeypatch):
    file = tmp_path / "text.txt"
    file.write_text(TEXT)
    read, plain = [], Texts.document
    monkeypatch.setattr(Texts, "document", lambda self, row: read.append(row) or plain(self, row))

    def rows(length=32, text=TEXT, **settings):
        read.clear()
        if file.read_text() != text:
            file.write_text(text)
        cache = str(tmp_path / "cache")
        data = load_dataset("text", data_files=str(file), split="train", cache_dir=cache)
        tokens = tokenizer()
        for name, value in settings.items():
            setattr(tokens, name, value)
        return prepared(data, tokens, length)["input_ids"][:]

    first = rows()
    assert read
    again = rows()
    assert again == first and not read
    for change in ({"length": 16}, {"eos_token": "[UNK]"}, {"text": TEXT + TEXT[::-1]}):
        assert rows(**change) != first and read, change
