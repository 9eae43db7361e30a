"""The mask token at a given row of the embeddings, where an engine looks for it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from hf_ddistill.diffusion import Diffusion
from hf_ddistill.models import BlockDiffusionLM, check_same_mask, diffusion_entry

_SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")


def with_mask_at(
    model: BlockDiffusionLM, tokenizer: PreTrainedTokenizerBase | None, row: int
) -> tuple[BlockDiffusionLM, PreTrainedTokenizerBase | None]:
    """The model with two rows of embeddings and head exchanged, and its tokenizer with the tokens.

    The token that was in that row takes the mask's. Where no token of the tokenizer is in it, the
    mask is a new token, and its old one stays, with a row that nothing was trained for.

    Args:
        model: changed in place.
        tokenizer: of the model; left as it is.
        row: where the mask is to be.

    Raises:
        ValueError: if the model has no such row, or the tokenizer cannot have the mask there.
    """
    config = model.config
    old = config.mask_token_id
    if tokenizer is not None and diffusion_entry(config):
        check_same_mask(Diffusion.from_config(diffusion_entry(config)), config, tokenizer)
    if row >= config.vocab_size:
        raise ValueError(
            f"The mask token must be row {row} of the embeddings, and the student has "
            f"{config.vocab_size} rows."
        )
    if old == row and (tokenizer is None or tokenizer.mask_token_id == row):
        return model, tokenizer
    known = 0 if tokenizer is None else len(tokenizer)
    if old == row and known > row and tokenizer.mask_token_id is None:
        tokenizer = _reloaded(tokenizer)
        tokenizer.mask_token = tokenizer.convert_ids_to_tokens(row)
        return model, tokenizer
    if tokenizer is not None and known < row:
        raise ValueError(
            f"The mask token must have the number {row}, and the tokenizer counts {known} tokens: "
            "one that it learns now would have another number."
        )
    if tokenizer is not None:
        tokenizer = _with_token(tokenizer, old, row) if known == row else _swapped(tokenizer, row)
    if old != row:
        _exchange(model, old, row, keeps_tokens=known > row)
    return model, tokenizer


@torch.no_grad()
def _exchange(model: BlockDiffusionLM, old: int, row: int, keeps_tokens: bool) -> None:
    tables = [model.get_input_embeddings().weight]
    if model.get_output_embeddings().weight is not tables[0]:
        tables.append(model.get_output_embeddings().weight)
    for table in tables:
        table[[old, row]] = table[[row, old]]
    config = model.config
    config.mask_token_id = row
    entry = diffusion_entry(config)
    if entry:
        config.discrete_diffusion = {
            **entry,
            "process": {**entry["process"], "mask_token_id": row},
        }
    if keeps_tokens:  # the token that was in the row has moved
        for holder in (config, model.lm.config, model.generation_config):
            for name in _SPECIAL:
                value = getattr(holder, name, None)
                if isinstance(value, list):
                    setattr(holder, name, [old if token == row else token for token in value])
                elif value == row:
                    setattr(holder, name, old)


def _with_token(tokenizer: PreTrainedTokenizerBase, old: int, row: int) -> PreTrainedTokenizerBase:
    """A copy with one token more, the mask's."""
    mine = _reloaded(tokenizer)
    known = mine.get_vocab()
    name = next(name for name in ("<|mask|>", "<|MASK|>", f"<|mask_{row}|>") if name not in known)
    mine.add_special_tokens({"mask_token": name})
    return _checked(mine, row)


def _swapped(tokenizer: PreTrainedTokenizerBase, row: int) -> PreTrainedTokenizerBase:
    """A copy in which the mask and the token of that row have each other's numbers."""

    def exchanged(folder: Path) -> None:
        old = tokenizer.mask_token_id
        file = folder / "tokenizer.json"
        if not file.is_file():
            return
        written = json.loads(file.read_text(encoding="utf-8"))
        numbers = {old: row, row: old}
        for token in written["added_tokens"]:
            token["id"] = numbers.get(token["id"], token["id"])
        written["added_tokens"].sort(key=lambda token: token["id"])
        file.write_text(json.dumps(written, ensure_ascii=False), encoding="utf-8")
        file = folder / "tokenizer_config.json"
        settings = json.loads(file.read_text(encoding="utf-8"))
        decoder = settings.get("added_tokens_decoder")
        if decoder:
            moved = {str(numbers.get(int(key), int(key))): v for key, v in decoder.items()}
            settings["added_tokens_decoder"] = dict(sorted(moved.items(), key=lambda x: int(x[0])))
            file.write_text(json.dumps(settings, ensure_ascii=False), encoding="utf-8")

    if tokenizer.mask_token_id is None:
        raise ValueError(
            f"The mask token must have the number {row}, which in the tokenizer is "
            f"{tokenizer.convert_ids_to_tokens(row)!r}; it names no mask token to exchange it with."
        )
    mine = _checked(_reloaded(tokenizer, exchanged), row)
    theirs = tokenizer.convert_ids_to_tokens(row)
    if mine.convert_tokens_to_ids(theirs) != tokenizer.mask_token_id:
        raise ValueError(_cannot(row, f"{theirs!r} is a token of its vocabulary, none added to it"))
    return mine


def _reloaded(
    tokenizer: PreTrainedTokenizerBase, change: Callable[[Path], None] = lambda folder: None
) -> PreTrainedTokenizerBase:
    """A copy through its files, which may be changed."""
    with tempfile.TemporaryDirectory() as place:
        tokenizer.save_pretrained(place)
        change(Path(place))
        return type(tokenizer).from_pretrained(place)


def _checked(tokenizer: PreTrainedTokenizerBase, row: int) -> PreTrainedTokenizerBase:
    if tokenizer.mask_token_id != row:
        raise ValueError(_cannot(row, f"its mask came out as {tokenizer.mask_token_id}"))
    return tokenizer


def _cannot(row: int, why: str) -> str:
    return f"The mask token must have the number {row}, which the tokenizer cannot give it: {why}."
