"""Rows of a batch: each goes on by itself, leaves when it is finished, and draws what it drew when
that was not so; nobody waits for a device without need."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from block_models import HALF, MASK, block_model, drawn, mixed_prompts, streams
from recording_device import RecordingDevice

GOLDEN = json.loads((Path(__file__).parents[1] / "data/golden/block_decoding.json").read_text())
PIPELINED = {"max_active_blocks": 3, "early_threshold": 0.6}
ENDS = {"eos_token_id": [5, 6, 7]}
WHOLE = {"block_size": 64, "sub_block_size": 4}
SETTINGS = {
    "static two calls": {"unmasking": "static", "steps_per_block": 2},
    "threshold": {"unmasking": HALF},
    "threshold of few calls": {
        "unmasking": {"type": "threshold", "threshold": 0.8},
        "steps_per_block": 2,
    },
    "top-p and temperature": {"unmasking": HALF, "top_p": 0.9, "temperature": 0.7},
    "random order": {"unmasking": {"type": "static", "score": "random"}, "steps_per_block": 3},
    "plackett_luce": {"unmasking": "plackett_luce", "steps_per_block": 3},
    "klass": {"unmasking": {"type": "klass", "threshold": 0.1, "bound": 0.02}},
    "prophet": {"unmasking": {"type": "prophet", "gaps": [3, 2, 1]}},
    "pipelined": {"unmasking": HALF, **PIPELINED},
    "pipelined ends": {"unmasking": HALF, **ENDS, **PIPELINED},
    "ends": {"unmasking": HALF, **ENDS},
    "static ends": {"unmasking": "static", "steps_per_block": 2, **ENDS},
    "full attention, blocks": {"unmasking": HALF, **WHOLE},
    "dual": {"unmasking": HALF, "dual_cache": True, **WHOLE},
    "settings": {
        "unmasking": HALF,
        "repetition_penalty": 1.3,
        "suppress_tokens": [4],
        "begin_suppress_tokens": [8],
        "min_new_tokens": 9,
        "forced_eos_token_id": 6,
        **ENDS,
    },
    "forbidden": {
        "unmasking": HALF,
        "no_repeat_ngram_size": 2,
        "bad_words_ids": [[9], [10, 11]],
    },
}


@pytest.mark.parametrize("name", GOLDEN)
def test_rows_draw_what_they_drew_when_they_waited_for_each_other(name):
    """Recorded before rows went on by themselves, with a generator for each row."""
    mode, shift, draws = name.split("|")
    ids, mask = mixed_prompts()
    settings = {"temperature": float(draws), "eos_token_id": -1} | SETTINGS[mode]
    out = block_model(shift=shift == "1").generate(
        ids, mask, generator=streams(), max_new_tokens=13, return_dict_in_generate=True, **settings
    )
    assert out.sequences[:, -13:].tolist() == GOLDEN[name]["tokens"]
    assert out.rounds[:, -13:].tolist() == GOLDEN[name]["rounds"]
    assert out.calls.tolist() == GOLDEN[name]["calls"]


def watched(model, *prompts, **settings):
    """Rows and asked positions of each call, and the calls that each row needed."""
    seen = []

    def watch(module, args, kwargs):
        seen.append((len(kwargs["input_ids"]), kwargs["at"].numel()))

    handle = model.register_forward_pre_hook(watch, with_kwargs=True)
    try:
        calls = drawn(model, *prompts, **settings)[2]
    finally:
        handle.remove()
    return *zip(*seen, strict=True), calls


@pytest.mark.parametrize("mode", ["threshold", "pipelined", "ends", "pipelined ends"])
def test_no_call_is_made_for_a_row_that_is_finished_or_waits(mode):
    rows, _, calls = watched(block_model(), *mixed_prompts(), **SETTINGS[mode])
    assert len(set(calls.tolist())) > 1
    assert len(rows) == calls.max() and sum(rows) == calls.sum()


def test_rows_of_a_plan_begin_each_block_together_and_leave_at_their_ends():
    settings = {"unmasking": "static", "steps_per_block": 2}
    ids = torch.arange(3, 35).view(4, 8)
    rows, _, calls = watched(block_model(), ids, None, **settings)
    assert rows == (4,) * 8 and calls.tolist() == [8] * 4  # 16 tokens, the last block whole
    first = drawn(block_model(), ids, None, **settings)[0][2, 1]
    rows, _, calls = watched(block_model(), ids, None, **settings, eos_token_id=int(first))
    assert rows[:2] == (4, 4) and rows[2] < 4 and sum(rows) == calls.sum()


def test_the_head_is_asked_for_open_tokens_alone():
    _, asked, _ = watched(
        block_model(), torch.arange(3, 13)[None], None, unmasking="static", max_new_tokens=6
    )
    # Two tokens of the prompt stand in the first block.
    assert asked == (2, 1, 4, 3, 2, 1)


UNREACHABLE = {
    "threshold": {"type": "threshold", "threshold": 1.0},
    "klass": {"type": "klass", "threshold": 1.0, "bound": 1e-30},
    "prophet": {
        "type": "prophet",
        "gaps": [1e9] * 3,
        "otherwise": {"type": "threshold", "threshold": 1.0},
    },
}


@pytest.mark.parametrize("rule", UNREACHABLE)
@pytest.mark.parametrize("several", [{}, {**PIPELINED, "early_threshold": 1.0}], ids=["one", "m"])
def test_what_is_out_of_reach_takes_a_token_a_call_and_ends(rule, several):
    never = {"unmasking": UNREACHABLE[rule], "max_new_tokens": 8, **several}
    tokens, rounds, calls = drawn(block_model(), torch.arange(3, 11)[None], None, **never)
    assert (tokens != MASK).all() and (rounds >= 0).all()
    assert calls.tolist() == [8] or several
    if not several:
        assert sorted(rounds[0, :4].tolist()) == sorted(rounds[0, 4:].tolist()) == [0, 1, 2, 3]


def reads(new, **settings):
    """How often a call of `generate` waits for a device, and how many network calls it makes."""
    recorder, calls = RecordingDevice(), []
    with recorder:
        model = copy.deepcopy(block_model()).to(recorder.device)
        ids = torch.arange(3, 19).view(2, 8).to(recorder.device)
        settings = {
            "eos_token_id": -1,
            "on_call": lambda number, _: calls.append(number),
        } | settings
        recorder.clear()
        model.generate(ids, max_new_tokens=new, **settings)
        found = recorder.reads.total(), recorder.report()
    return *found, len(calls)


@pytest.mark.parametrize(
    ("settings", "each"),
    [
        ({"unmasking": "static"}, 0),
        ({"unmasking": "static", "steps_per_block": 2, "eos_token_id": 5}, 0.5),  # once a block
        ({"unmasking": HALF, "eos_token_id": 5, "temperature": 1.0}, 1),
        ({"unmasking": HALF, **PIPELINED}, 1),
    ],
    ids=["static", "static with ends", "threshold", "pipelined"],
)
def test_a_call_reads_the_device_once_and_not_at_all_where_its_rule_has_a_plan(settings, each):
    (few, _, calls), (many, report, more) = (reads(new, **settings) for new in (4, 12))
    assert many - few == each * (more - calls), report


def operations(rows, **settings):
    """Operations of a call, in a batch of equal rows."""
    counts = []
    for new in (4, 12):
        recorder, calls = RecordingDevice(), []
        with recorder:
            model = copy.deepcopy(block_model()).to(recorder.device)
            ids = torch.arange(3, 11).repeat(rows, 1).to(recorder.device)
            recorder.clear()
            model.generate(
                ids,
                max_new_tokens=new,
                eos_token_id=-1,
                on_call=lambda number, _, calls=calls: calls.append(number),
                **settings,
            )
        counts.append((recorder.operations.total(), len(calls)))
    (few, calls), (many, more) = counts
    return (many - few) / (more - calls)


@pytest.mark.parametrize("name", ["static two calls", "threshold", "pipelined"])
def test_a_call_has_no_operation_for_each_row(name):
    # One row needs no numbers of rows, two do.
    assert operations(2, **SETTINGS[name]) == operations(6, **SETTINGS[name])
