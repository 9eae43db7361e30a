"""Tokenizers that are made of the data: characters, bytes, byte pairs.

All of them give back what they read, white space and line breaks included, and have an end and a
mask token, the last two of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

END, MASK, UNKNOWN = "<|end|>", "<|mask|>", "<|unk|>"
#: What `made_tokenizer` takes, in words.
MADE = "characters, bytes or bpe:SIZE"


def is_made(name: str) -> bool:
    """Whether a name is that of a tokenizer which is made, not loaded."""
    return name in ("characters", "bytes") or name.startswith("bpe:")


def made_tokenizer(name: str, texts: Callable[[], Iterable[str]]) -> PreTrainedTokenizerFast:
    """A tokenizer of the data.

    Args:
        name: "characters" (of the texts; any other is unknown), "bytes" (of UTF-8), or "bpe:SIZE"
            (byte pairs trained on the texts until there are SIZE tokens, end and mask included).
        texts: gives them, from the first one on; not called for bytes.

    Raises:
        ValueError: for another name, and for a SIZE of less than all bytes, end and mask, or of
            more pairs than the texts have.
    """
    if name == "characters":
        inner = _characters(texts())
    elif name == "bytes":
        inner = _byte_level(models.BPE(vocab=_bytes(), merges=[]))
    elif name.startswith("bpe:"):
        inner = _pairs(name, texts())
    else:
        raise ValueError(f"A tokenizer is made as {MADE}, not {name!r}.")
    unknown = {"unk_token": UNKNOWN} if name == "characters" else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        eos_token=END,
        mask_token=MASK,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
        **unknown,
    )


def _characters(texts: Iterable[str]) -> Tokenizer:
    known: set[str] = set()
    for text in texts:
        known.update(text)
    words = [*sorted(known), UNKNOWN]
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token=UNKNOWN))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    inner.decoder = decoders.Fuse()
    return inner


def _bytes() -> dict[str, int]:
    return {symbol: i for i, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}


def _byte_level(model: models.BPE) -> Tokenizer:
    inner = Tokenizer(model)
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return inner


def _pairs(name: str, texts: Iterable[str]) -> Tokenizer:
    size, least = name.removeprefix("bpe:"), len(_bytes()) + 2
    if not size.isdecimal() or int(size) < least:
        raise ValueError(
            f"{name}: bpe:SIZE takes a number of tokens, at least {least}: all bytes, end and mask."
        )
    inner = _byte_level(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=int(size) - 2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(texts, trainer)
    if (found := inner.get_vocab_size() + 2) < int(size):
        raise ValueError(f"{name}: the texts have pairs for {found} tokens; take bpe:{found}.")
    return inner
