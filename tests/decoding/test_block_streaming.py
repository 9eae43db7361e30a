"""What a streamer shows of a block model: drafts, and the text once it is sure."""

# ruff: noqa: F811 (the arguments of a test are the fixtures that were imported)
from __future__ import annotations

import pytest
import torch
from block_folder import folder, model, tokenizer  # noqa: F401
from transformers import TextDiffusionStreamer


def kept(shown):
    """What stays of a streamer's output: drafts, between the signs that save and restore the
    cursor, are cleared before the text that is sure."""
    return "".join(part.split("\0337")[0] for part in shown.split("\0338\033[J"))


def test_a_streamer_shows_drafts_and_then_the_text(model, tokenizer, capsys):
    streamer = TextDiffusionStreamer(tokenizer, skip_prompt=True)
    ids = tokenizer("a b c", return_tensors="pt", add_special_tokens=False)["input_ids"]
    new = model.generate(ids, streamer=streamer, unmasking="static", eos_token_id=-1)[0, 3:]
    shown = capsys.readouterr().out
    assert "<|mask|>" in shown and "\033[33m" in shown
    assert kept(shown).split() == tokenizer.decode(new).split()


def test_a_streamer_stops_at_the_end(model, tokenizer, capsys):
    ids = torch.tensor([[5, 6, 7]])
    free = model.generate(ids, unmasking="static", eos_token_id=-1)[0, 3:].tolist()
    streamer = TextDiffusionStreamer(tokenizer, skip_prompt=True)
    model.generate(ids, unmasking="static", eos_token_id=free[1], streamer=streamer)
    # A block's words are shown as soon as it is finished (transformers 5.24), a draft of the next
    # one behind them: all that was shown is the text to its end, and nothing else.
    stop = free.index(free[1]) + 1
    assert kept(capsys.readouterr().out).split() == tokenizer.decode(free[:stop]).split()


def test_a_streamer_takes_one_row(model, tokenizer):
    with pytest.raises(ValueError, match="A streamer takes one row, got a batch of 2"):
        model.generate(torch.tensor([[5], [6]]), streamer=TextDiffusionStreamer(tokenizer))
