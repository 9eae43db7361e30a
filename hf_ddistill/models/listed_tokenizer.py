"""A tokenizer of a list of tokens, one a line: what masked language models of proteins and
molecules have beside their weights, and no class of transformers reads."""

from __future__ import annotations

import re
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

#: The special tokens by the names that they go by.
NAMES = {
    "bos_token": ("<s>", "<cls>", "[CLS]"),
    "eos_token": ("</s>", "<eos>", "[SEP]"),
    "unk_token": ("<unk>", "[UNK]"),
    "pad_token": ("<pad>", "[PAD]"),
    "mask_token": ("<mask>", "[MASK]"),
}
#: Those of BERT, which has a beginning and a separator by these names too.
ALIKE = {"[CLS]": "cls_token", "[SEP]": "sep_token"}


def listed_tokens(file: Path) -> list[str]:
    """The tokens of a list, by their numbers.

    Raises:
        ValueError: if two are the same.
    """
    tokens = file.read_text(encoding="utf-8").splitlines()
    while tokens and not tokens[-1]:
        tokens.pop()
    if len({*tokens}) < len(tokens):
        twice = next(token for token in tokens if tokens.count(token) > 1)
        raise ValueError(f"{file} has the token {twice!r} twice; each line must be another one.")
    return tokens


def listed_tokenizer(file: Path) -> PreTrainedTokenizerFast:
    """Text is cut from left to right into the longest tokens that fit, white space left out; what
    fits none is unknown, by itself. A text stands between the first and the last special token,
    where there are two; decoding joins its tokens without spaces.

    Args:
        file: one token a line.

    Raises:
        ValueError: if two are the same.
    """
    tokens = listed_tokens(file)
    special = {
        role: next((name for name in names if name in tokens), None)
        for role, names in NAMES.items()
    }
    special = {role: name for role, name in special.items() if name is not None}
    unknown = {"unk_token": special["unk_token"]} if "unk_token" in special else {}
    inner = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, **unknown))
    longest = sorted(tokens, key=len, reverse=True)
    pieces = "|".join([*(re.escape(token) for token in longest if token), r"\S"])
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(pieces), "isolated")]
    )
    inner.decoder = decoders.Fuse()
    begin, end = special.get("bos_token"), special.get("eos_token")
    if begin and end:
        inner.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A {end}",
            pair=f"{begin} $A {end} $B {end}",
            special_tokens=[(name, tokens.index(name)) for name in (begin, end)],
        )
    special |= {ALIKE[name]: name for name in (begin, end) if name in ALIKE}
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
        **special,
    )
