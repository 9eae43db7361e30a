"""A folder with a masked LM and a list of its tokens alone, as those of proteins and molecules come
in packages."""

from __future__ import annotations

import json

import pytest
from transformers import AlbertConfig, BertConfig, EsmConfig, RobertaConfig

from hf_ddistill.models.tokenizers import load_tokenizer

LETTERS = [*"ACDEFGHIKLMNPQRSTVWY"]
ROBERTA = ["<s>", "<pad>", "</s>", "<unk>", *LETTERS, "<mask>"]
BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS]
SMILES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"cCnNO()=1", "Cl", "Br", "[nH]", "@@", "@"]


def folder_of(path, config, tokens, **more):
    config.save_pretrained(path)
    (path / "vocab.txt").write_text("\n".join(tokens) + "\n")
    for name, held in more.items():
        (path / f"{name}.json").write_text(json.dumps(held))
    return str(path)


@pytest.mark.parametrize(
    ("config", "tokens"), [(RobertaConfig, ROBERTA), (BertConfig, BERT)], ids=["roberta", "bert"]
)
def test_a_sequence_of_letters_is_one_unknown_word(config, tokens, tmp_path):
    name = folder_of(tmp_path, config(vocab_size=25), tokens)
    with pytest.warns(UserWarning, match="does not read its vocab.txt: it is read as a list"):
        tokenizer = load_tokenizer(name)
    ids = tokenizer("QVX L\n")["input_ids"]  # X is no letter of these
    want = [tokens[0] if tokens is ROBERTA else "[CLS]", "Q", "V"]
    want += [tokenizer.unk_token, "L", tokens[2] if tokens is ROBERTA else "[SEP]"]
    assert [tokens[i] for i in ids] == want
    assert tokenizer.mask_token_id == tokens.index(tokenizer.mask_token) and len(tokenizer) == 25
    assert tokenizer.decode(ids, skip_special_tokens=True) == "QVL"
    tokenizer.save_pretrained(tmp_path / "saved")
    assert load_tokenizer(str(tmp_path / "saved"))("QVXL")["input_ids"] == ids


def test_chlorine_is_carbon_and_something(tmp_path):
    name = folder_of(tmp_path, AlbertConfig(vocab_size=20), SMILES, tokenizer_config={})
    with pytest.warns(UserWarning, match="does not read its vocab.txt"):
        tokenizer = load_tokenizer(name)
    text = "Brc1c[nH]cc1C(Cl)=O"
    ids = tokenizer(text)["input_ids"]
    assert [SMILES[i] for i in ids[1:5]] == ["Br", "c", "1", "c"] and SMILES[ids[5]] == "[nH]"
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert tokenizer.cls_token_id == 2 and tokenizer.sep_token_id == 3


def test_a_class_that_reads_its_list_is_taken_for_one_that_does_not(tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "dis", "##til"]
    bert = load_tokenizer(folder_of(tmp_path / "b", BertConfig(), words))
    assert bert.tokenize("distil") == ["dis", "##til"]
    proteins = ["<cls>", "<pad>", "<eos>", "<unk>", *LETTERS, "<mask>"]
    esm = load_tokenizer(folder_of(tmp_path / "e", EsmConfig(vocab_size=25), proteins))
    assert type(esm).__name__ == "EsmTokenizer"


def test_a_tokenizer_that_has_read_none_of_its_vocabulary_is_taken(tmp_path):
    """Where the folder names a class, it is not replaced by another."""
    name = folder_of(
        tmp_path,
        RobertaConfig(vocab_size=25),
        ROBERTA,
        tokenizer_config={"tokenizer_class": "RobertaTokenizer"},
    )
    with pytest.raises(ValueError, match="vocab.txt has 25 tokens, and RobertaTokenizer.* knows 5"):
        load_tokenizer(name)


def test_two_lines_of_a_list_are_the_same_token(tmp_path):
    name = folder_of(tmp_path, RobertaConfig(vocab_size=25), [*ROBERTA, "A"])
    with pytest.raises(ValueError, match="has the token 'A' twice"):
        load_tokenizer(name)
