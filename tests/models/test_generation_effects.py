"""What a setting of `generate` does to the tokens: against what they are without it, against
transformers' own laws, and by looking for what was forbidden."""

from __future__ import annotations

import pytest
import torch
from block_models import HALF, MASK, K, block_model, drawn, mixed_prompts, streams
from transformers import (
    EtaLogitsWarper,
    LogitsProcessorList,
    MaxLengthCriteria,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopHLogitsWarper,
    TopKLogitsWarper,
)

NEW = 9


def new(rows=4, **settings):
    """The new tokens behind the first of some mixed prompts."""
    ids, mask = mixed_prompts()
    return drawn(block_model(), ids[:rows], mask[:rows], max_new_tokens=NEW, **settings)[0]


# What a setting does is told by what comes out; the prompts are those of `new`.
CHANGES = {
    "repetition_penalty": 5.0,
    "no_repeat_ngram_size": 1,
    "sequence_bias": [[[7], 20.0]],
    "forced_eos_token_id": 2,
    "suppress_tokens": list(range(3, 20)),
    "begin_suppress_tokens": list(range(3, 30)),
    "bad_words_ids": [[token] for token in range(3, 20)],
    "max_time": 1e-9,
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_setting_changes_what_comes_out_and_no_row_depends_on_its_batch(name):
    settings = {name: CHANGES[name], "unmasking": HALF}
    together = new(**settings)
    assert not torch.equal(together, new(unmasking=HALF))
    ids, mask = mixed_prompts()
    for row in (0, 3):
        alone = drawn(
            block_model(), ids[[row]][:, mask[row] == 1], None, max_new_tokens=NEW, **settings
        )
        assert torch.equal(together[[row]], alone[0])


def test_barred_tokens_are_not_decided():
    free = new(unmasking="static")
    barred = free.unique().tolist()[:10]
    assert not torch.isin(new(suppress_tokens=barred, unmasking=HALF), torch.tensor(barred)).any()
    words = [[token] for token in barred]
    assert not torch.isin(new(bad_words_ids=words, unmasking=HALF), torch.tensor(barred)).any()
    first = free[:, 0].unique().tolist()
    found = new(begin_suppress_tokens=first, unmasking="static")
    assert not torch.isin(found[:, 0], torch.tensor(first)).any()
    assert torch.isin(found[:, 1:], torch.tensor(first)).any()


MODES = {
    "all at once": {"unmasking": "static", "steps_per_block": 1},
    "sure ones": {"unmasking": HALF},
    "any order": {"unmasking": {"type": "static", "score": "random"}},
    "several blocks": {"unmasking": HALF, "max_active_blocks": 3, "early_threshold": 0.1},
    "one block": {"unmasking": HALF, "block_size": 64},
}


@pytest.mark.parametrize("draws", [False, True], ids=["likeliest", "drawn"])
@pytest.mark.parametrize("mode", MODES)
def test_no_sequence_is_repeated_and_no_bad_word_completed_in_any_order(mode, draws):
    ids, mask = mixed_prompts()
    free = drawn(block_model(), ids, mask, **MODES[mode])[0]
    words = [pair.tolist() for row in free for pair in row.unfold(0, 2, 2)][:9]
    words += [[int(free[0, 0])], free[1, 2:5].tolist()]
    for size in (2, 3):
        found, _, calls = drawn(
            block_model(), ids, mask, streams() if draws else None,
            no_repeat_ngram_size=size, bad_words_ids=words, **MODES[mode],
        )  # fmt: skip
        for row in range(4):
            prompt = ids[row][mask[row] == 1].tolist()
            whole = prompt + found[row].tolist()
            grams = [tuple(whole[at : at + size]) for at in range(len(whole) - size + 1)]
            fresh = grams[len(prompt) - size + 1 :]
            assert len(fresh) == len(set(fresh)) and not set(fresh) & set(grams[: -len(fresh)])
            for word in words:
                windows = (whole[at : at + len(word)] for at in range(len(whole)))
                at = [number for number, window in enumerate(windows) if window == word]
                assert all(number + len(word) <= len(prompt) for number in at)
        assert (found != MASK).all() and (calls <= 16).all()


def test_a_position_for_which_no_token_is_left_is_said():
    for settings in (
        {"suppress_tokens": list(range(K))},
        {"bad_words_ids": [[token] for token in range(K)]},
        {"logits_processor": lambda ids, scores: torch.full_like(scores, -torch.inf)},
    ):
        with pytest.raises(ValueError, match="No token is left for a position"):
            new(**settings)


def test_broken_logits_are_said_and_replaced_where_that_is_asked_for():
    def broken(module, args, output):
        output.logits[0, 0] = torch.nan
        return output

    handle = block_model().register_forward_hook(broken)
    try:
        with pytest.raises(ValueError, match="logits that are NaN or infinite"):
            new()
        assert (new(remove_invalid_values=True) != MASK).all()
    finally:
        handle.remove()


def laws(settings, *warpers):
    """The law of `scores` at the only call, and that of transformers' own warpers."""
    ids, mask = mixed_prompts()
    out = block_model().generate(
        ids, mask, max_new_tokens=1, do_sample=True, generator=streams(), eos_token_id=-1,
        steps_per_block=1, unmasking="static", output_scores=True, output_logits=True,
        return_dict_in_generate=True, **settings,
    )  # fmt: skip
    (scores,), (logits,) = out.scores, out.logits
    logits = logits.clone()
    logits[:, MASK] = -torch.inf
    return scores.exp(), LogitsProcessorList(warpers)(None, logits).softmax(-1)


WARPED = {
    "plain": ({}, ()),
    "min_p": (
        {"temperature": 2.0, "top_k": 6, "min_p": 0.2},
        (TemperatureLogitsWarper(2.0), TopKLogitsWarper(6), MinPLogitsWarper(0.2)),
    ),
    "top_h": (
        {"temperature": 2.0, "top_h": 0.5, "top_k": 9},
        (TemperatureLogitsWarper(2.0), TopHLogitsWarper(0.5), TopKLogitsWarper(9)),
    ),
    "eta": (
        {"temperature": 3.0, "eta_cutoff": 0.05},
        (TemperatureLogitsWarper(3.0), EtaLogitsWarper(0.05)),
    ),
}


@pytest.mark.parametrize(("settings", "warpers"), WARPED.values(), ids=WARPED.keys())
def test_tokens_are_drawn_from_the_law_of_transformers(settings, warpers):
    ours, theirs = laws(settings, *warpers)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    assert settings == {} or bool(((theirs == 0).sum(1) > 1).any())


@pytest.mark.parametrize("name", ["typical_p", "epsilon_cutoff", "top_p"])
def test_a_warper_removes_tokens(name):
    ours, _ = laws({"temperature": 3.0, name: 0.1 if name == "epsilon_cutoff" else 0.5})
    plain, _ = laws({"temperature": 3.0})
    assert ((ours == 0).sum() > (plain == 0).sum()) and torch.allclose(ours.sum(1), torch.ones(4))


def test_scores_are_the_laws_of_what_was_drawn():
    ids, mask = mixed_prompts()
    out = block_model().generate(
        ids, mask, max_new_tokens=NEW, temperature=1.5, generator=streams(), eos_token_id=[5, 6, 7],
        return_dict_in_generate=True, output_scores=True,
    )  # fmt: skip
    scores, rounds = torch.stack(out.scores, 1), out.rounds[:, -NEW:]
    assert scores.shape == (4, NEW, K) and (rounds == -1).any() and not scores[rounds == -1].any()
    chosen = scores.gather(-1, out.sequences[:, -NEW:, None])[..., 0]
    assert (chosen[rounds >= 0] > -20).all() and (scores[rounds >= 0][:, MASK] < -1e5).all()


def test_a_criterion_ends_a_row_behind_the_token_at_which_it_says_so():
    free = new(unmasking="static").tolist()
    ids, mask = mixed_prompts()
    asked = []

    def third(so_far, scores):
        asked.append(so_far.shape)
        return torch.tensor([so_far.shape[1] == 13])

    found = drawn(block_model(), ids, mask, max_new_tokens=NEW, unmasking="static",
                  stopping_criteria=[third])[0].tolist()  # fmt: skip
    for row, length in enumerate((6, 11, 9, 8)):
        kept = min(13 - length, NEW)
        assert found[row] == free[row][:kept] + [0] * (NEW - kept)
    assert {shape[0] for shape in asked} == {1} and max(shape[1] for shape in asked) == 13
    length = MaxLengthCriteria(13)
    again = drawn(block_model(), ids, mask, max_new_tokens=NEW, unmasking="static",
                  stopping_criteria=length)[0].tolist()  # fmt: skip
    assert again == found


def test_time_that_is_up_leaves_the_tokens_before_the_first_open_one():
    order = {"unmasking": {"type": "static", "score": "left_to_right"}}
    free, found = new(**order), new(**order, max_time=1e-9)
    rest = torch.tensor([2, 1, 3, 4])  # open tokens of each row's first block
    assert (found[:, 0] == free[:, 0]).all() and (found[:, 1:] == 0).all() and (rest > 0).all()
    seen = []
    found = new(**order, on_call=lambda number, canvas: seen.append(number) or number == 2)
    assert seen == [0, 1, 2] and (found[3] != 0).sum() == 3
