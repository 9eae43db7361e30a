"""Tiny masked language models of transformers with tokenizers of their own kinds."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AlbertConfig,
    AlbertForMaskedLM,
    AlbertTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertTokenizer,
    EsmConfig,
    EsmForMaskedLM,
    EsmTokenizer,
    ModernBertConfig,
    ModernBertForMaskedLM,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaTokenizer,
)

LETTERS = list("acdefghiklmn")
_SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
_SIZES |= {"intermediate_size": 16, "max_position_embeddings": 24}
_FAIRSEQ = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
_BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def _bert(folder):
    names = [*_BERT, *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    (folder / "vocab.txt").write_text("\n".join(names))
    return BertForMaskedLM(BertConfig(vocab_size=len(names), **_SIZES)), BertTokenizer(
        str(folder / "vocab.txt")
    )


def _roberta(folder):
    names = [*_FAIRSEQ, *LETTERS, "\u0120"]
    tokenizer = RobertaTokenizer(vocab={name: i for i, name in enumerate(names)}, merges=[])
    config = RobertaConfig(vocab_size=len(names), **_SIZES)
    return RobertaForMaskedLM(config), tokenizer


def _albert(folder):
    names = ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]", "\u2581", *LETTERS]
    tokenizer = AlbertTokenizer(vocab=[(name, -float(i)) for i, name in enumerate(names)])
    config = AlbertConfig(vocab_size=len(names), embedding_size=8, **_SIZES)
    return AlbertForMaskedLM(config), tokenizer


def _modernbert(folder):
    # Its published ones have their special tokens at the end of the vocabulary.
    names = [*LETTERS, *_BERT]
    ids = {name: i for i, name in enumerate(names)}
    core = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    ends = [(name, ids[name]) for name in ("[CLS]", "[SEP]")]
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair=None, special_tokens=ends
    )
    roles = ("pad", "unk", "cls", "sep", "mask")
    special = {f"{role}_token": name for role, name in zip(roles, _BERT, strict=True)}
    special_ids = {f"{role}_token_id": ids[f"[{role.upper()}]"] for role in ("pad", "cls", "sep")}
    special_ids |= {"bos_token_id": ids["[CLS]"], "eos_token_id": ids["[SEP]"]}
    config = ModernBertConfig(vocab_size=len(names), **_SIZES, **special_ids)
    return ModernBertForMaskedLM(config), PreTrainedTokenizerFast(tokenizer_object=core, **special)


def _esm(folder):
    names = ["<cls>", "<pad>", "<eos>", "<unk>", *map(str.upper, LETTERS), "<mask>"]
    (folder / "vocab.txt").write_text("\n".join(names))
    # As ESM-2: no positions but rotary ones, and masked embeddings are zero.
    config = EsmConfig(
        vocab_size=len(names),
        mask_token_id=len(names) - 1,
        pad_token_id=1,
        position_embedding_type="rotary",
        token_dropout=True,
        **_SIZES,
    )
    return EsmForMaskedLM(config), EsmTokenizer(str(folder / "vocab.txt"))


FAMILIES = {
    "bert": _bert,
    "roberta": _roberta,
    "albert": _albert,
    "modernbert": _modernbert,
    "esm": _esm,
}


def masked_lm(family, folder):
    """A tiny model with random weights, in eval mode, and its tokenizer."""
    torch.manual_seed(0)
    model, tokenizer = FAMILIES[family](folder)
    with torch.no_grad():  # as far from uniform as a trained one
        for parameter in model.parameters():
            parameter.mul_(3) if parameter.ndim > 1 else None
    return model.eval(), tokenizer
