"""From a folder of text to a teacher without a detour: files, tokenizer, a part held out."""

from __future__ import annotations

import json

import pytest
from datasets import Dataset
from transformers import AutoTokenizer

from hf_ddistill.cli.data import load
from hf_ddistill.cli.main import main
from hf_ddistill.cli.text_files import split_off
from hf_ddistill.models.made_tokenizers import made_tokenizer
from hf_ddistill.training.preparation import prepared


@pytest.fixture
def books(tmp_path):
    folder = tmp_path / "books"
    (folder / "more").mkdir(parents=True)
    (folder / "a.txt").write_text("one\n two\n\nthree\n")
    (folder / "more" / "b.txt").write_text("four\n")
    (folder / "empty.txt").write_text("\n")
    return folder


def test_files_of_a_folder_are_glued_or_their_line_breaks_lost(books):
    whole = ["one\n two\n\nthree\n", "four\n"]
    assert load(str(books))["text"][:] == whole
    assert load(f"{books}/**/*.txt")["text"][:] == whole
    assert load(f"{books}/a*")["text"][:] == whole[:1]
    assert [row["text"] for row in load(str(books), streaming=True)][0] == whole[0]
    lines = load(str(books), documents="line")["text"][:]
    assert lines == ["one", " two", "three", "four"]
    assert len(load(str(books / "a.txt"), documents="paragraph")) == 2
    assert load(str(books / "a.txt"), documents="file")["text"][:] == whole[:1]


@pytest.mark.parametrize(
    ("make", "name", "said"),
    [
        (lambda f: (f / "c.txt").write_bytes(b"a\n\xff"), "", "not UTF-8, line 2: byte 0xff"),
        (lambda f: None, "*.zip", "no text file"),
        (lambda f: (f / "d.csv").write_text("a"), "d*", "a glob is of text files"),
        (lambda f: [p.unlink() for p in f.rglob("*.txt")], "", "holds no files of data"),
    ],
)
def test_a_bad_folder_is_a_traceback(make, name, said, books):
    make(books)
    with pytest.raises(ValueError, match=said):
        load(f"{books}/{name}" if name else str(books))


@pytest.mark.parametrize("name", ["some/hub-id", "digits"])
def test_documents_of_tokens_are_accepted(name):
    with pytest.raises(ValueError, match="--documents is of text files"):
        load(name, documents="file")


def test_a_folder_of_text_is_lost_by_its_name_or_by_what_lies_beside_the_text(books, monkeypatch):
    (books / "nowhere.txt").symlink_to("/there/is/no/such/file")
    (books / "folder.txt").mkdir()
    (books / ".git").mkdir()
    (books / ".git" / "a.csv").write_text("a\n")
    (books / ".git" / "a.txt").write_text("hidden")
    whole = load(str(books))["text"][:]
    assert whole == ["one\n two\n\nthree\n", "four\n"]
    odd = books.rename(books.with_name(".we[ird] *name"))
    assert load(str(odd))["text"][:] == whole
    assert load(str(odd / "a.txt"))["text"][:] == ["one", " two", "three"]
    monkeypatch.chdir(odd / "more")
    assert load("..")["text"][:] == whole
    assert load("../more")["text"][:] == whole[1:]


def test_lines_without_text_count_where_nobody_says_that_documents_are_lines(books):
    for how in ({}, {"streaming": True}):
        for documents in (None, "line"):
            rows = load(str(books / "a.txt"), documents=documents, **how)
            assert [row["text"] for row in rows] == ["one", " two", "three"]


def test_the_mark_of_an_editor_is_a_character_of_the_text(books):
    (books / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo")
    assert load(str(books))["text"][0] == "one\ntwo"
    assert load(str(books / "a.txt"))["text"][0] == "one"


def test_a_stream_of_texts_ends_in_the_middle_of_a_training_or_trains_on_nothing(books):
    (books / "a.txt").write_text(" ")
    assert [row["text"] for row in load(str(books), streaming=True)] == ["four\n"]
    with pytest.raises(ValueError, match="does not fill one row of max_length=9"):
        prepared(load(str(books), streaming=True), made_tokenizer("bytes", list), 9)
    (books / "more" / "b.txt").write_text(" ")
    with pytest.raises(ValueError, match="is empty"):
        load(str(books), streaming=True)
    (books / "more" / "b.txt").write_bytes(b"good\n" * 9 + b"\xff")
    for name in (books, books / "more" / "b.txt"):
        with pytest.raises(ValueError, match="not UTF-8, line 10"):
            load(str(name), streaming=True)


def test_a_file_or_folder_without_text_is_looked_up_on_the_hub(tmp_path):
    (tmp_path / "a.md").write_text("# one\n")
    (tmp_path / "a.zip").write_text("a")
    assert load(str(tmp_path / "a.md"))["text"][:] == ["# one"]
    with pytest.raises(ValueError, match=r"a\.zip, a file that is none of \.txt"):
        load(str(tmp_path / "a.zip"))
    with pytest.raises(ValueError, match="cannot be read: File is not a zip file"):
        load(str(tmp_path))
    (tmp_path / "a.zip").unlink()
    with pytest.raises(ValueError, match="holds no files of data"):
        load(str(tmp_path))


def test_the_part_that_is_held_out_is_not_the_last_one():
    lines = [f"line {i:03}\n" for i in range(100)]
    one = Dataset.from_dict({"text": ["".join(lines)]})
    many = Dataset.from_dict({"text": lines})
    for data in (one, many):
        train, held_out = split_off(data, 0.1)
        assert "".join(train["text"][:]) == "".join(lines[:90])
        assert "".join(held_out["text"][:]) == "".join(lines[90:])
    rows = Dataset.from_dict({"input_ids": [[i] for i in range(10)]})
    assert split_off(rows, 0.2)[1]["input_ids"][:] == [[8], [9]]
    with pytest.raises(ValueError, match="leaves nothing"):
        split_off(rows.select([0]), 0.5)


def test_a_folder_of_text_does_not_become_a_teacher(tmp_path, capsys):
    folder = tmp_path / "books"
    folder.mkdir()
    for i in range(3):
        (folder / f"{i}.txt").write_text(f"{i} is a number,\nand so is {i + 1}.\n" * 40)
    out = tmp_path / "out"
    size = ["--hidden-size", "8", "--layers", "1", "--heads", "1", "--max-length", "16"]
    argv = ["teacher", "--data", str(folder), "--tokenizer", "characters", *size, "--cpu"]
    argv += ["--steps", "2", "--batch-size", "4", "--output", str(out)]
    assert main([*argv, "--held-out", "0.2"]) == 0
    assert "eval_bits_per_token" in capsys.readouterr().out
    tokenizer = AutoTokenizer.from_pretrained(out)
    text = "2 is a number,\nand"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    config = json.loads((out / "config.json").read_text())
    assert config["mask_token_id"] == tokenizer.mask_token_id == config["vocab_size"] - 1
    assert config["eos_token_id"] == tokenizer.eos_token_id


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--data", "digits", "--tokenizer", "bytes"], "has no column 'text'"),
        (["--tokenizer", "bpe:3"], "at least 258"),
        (["--tokenizer", "characters", "--streaming"], "which a stream gives once"),
        (["--tokenizer", "bytes", "--held-out", "0.1", "--eval-split", "train"], "held out"),
        (["--tokenizer", "bytes", "--held-out", "0.1", "--streaming"], "no last part"),
        (["--tokenizer", "bytes", "--held-out", "1.5"], "--held-out"),
    ],
)
def test_wrong_options_of_text_are_a_traceback(more, said, books, tmp_path, capsys):
    argv = ["teacher", "--data", str(books), "--output", str(tmp_path / "out"), "--cpu"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        try:
            code = main([*argv, *more])
        except SystemExit as error:
            code = error.code
    assert code == 2 and not (tmp_path / "out").exists()
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and said in lines[0]
