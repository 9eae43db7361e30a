"""Decoding by blocks: what is kept, who waits and what steers must not change what comes out."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from block_models import (
    FAMILIES,
    HALF,
    MASK,
    assert_same,
    block_model,
    causal,
    drawn,
    mixed_prompts,
    plain_loop,
    streams,
)
from slow_cases import mostly_slow

from hf_ddistill.convert import to_block_diffusion
from hf_ddistill.decoding.decoding import DecodingPlan, decode
from hf_ddistill.decoding.pipelined import Pipelining
from hf_ddistill.models import BlockDiffusionGenerationConfig

NEW = 13
PIPELINED = {"max_active_blocks": 3, "early_threshold": 0.6}
MODES = {
    "static": {"unmasking": "static", "steps_per_block": 2},
    "threshold": {"unmasking": HALF},
    "pipelined": {"unmasking": HALF, **PIPELINED},
    "pipelined klass": {
        # A row that waits within a block must not take waiting for stability.
        "unmasking": {"type": "klass", "threshold": 0.1, "bound": 0.02},
        **PIPELINED,
        "max_active_blocks": 2,
    },
    "pipelined prophet": {"unmasking": {"type": "prophet", "gaps": [3, 2, 1]}, **PIPELINED},
    "ends": {"unmasking": HALF, "eos_token_id": [5, 6, 7]},
    "pipelined ends": {"unmasking": HALF, "eos_token_id": [5, 6, 7], **PIPELINED},
    "parts of a block": {"unmasking": HALF, "block_size": 8, "sub_block_size": 2},
    "full attention": {"unmasking": HALF, "block_size": 64},
    "full attention, blocks": {"unmasking": HALF, "block_size": 64, "sub_block_size": 4},
    "full attention, dual": {
        "unmasking": HALF,
        "block_size": 64,
        "sub_block_size": 4,
        "dual_cache": True,
    },
}


@pytest.mark.parametrize("shift", [False, True], ids=["in place", "shifted"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_cache_and_a_batch_change_no_token(family, shift):
    model = block_model(family, shift)
    ids, mask = mixed_prompts()
    with_cache = drawn(model, ids, mask, streams(), **MODES["static"])
    assert_same(with_cache, drawn(model, ids, mask, streams(), use_cache=False, **MODES["static"]))
    assert_same(
        with_cache,
        drawn(model, *mixed_prompts_on_the_right(ids, mask), streams(), **MODES["static"]),
    )
    alone = [
        drawn(model, ids[[row]][:, mask[row] == 1], None, streams([row]), **MODES["static"])
        for row in (0, 3)
    ]
    for row, single in zip((0, 3), alone, strict=True):
        assert_same([part[[row]] for part in with_cache], single)


def mixed_prompts_on_the_right(ids, mask):
    """The same prompts with their padding on the right."""
    order = mask.argsort(dim=1, descending=True, stable=True)
    return ids.gather(1, order), mask.gather(1, order)


@pytest.mark.parametrize(
    ("mode", "shift"),
    mostly_slow(
        itertools.product(MODES, [False, True]),
        lambda mode, shift: not shift or mode in ("static", "pipelined", "parts of a block"),
    ),
)
def test_what_a_row_decodes_depends_neither_on_cache_nor_on_batch(mode, shift):
    model, settings = block_model(shift=shift), MODES[mode]
    ids, mask = mixed_prompts()
    together = drawn(model, ids, mask, streams(), **settings)
    if not settings.get("dual_cache"):
        assert_same(together, drawn(model, ids, mask, streams(), use_cache=False, **settings))
    for row in range(4):
        prompt = ids[[row]][:, mask[row] == 1]
        alone = drawn(model, prompt, None, streams([row]), **settings)
        assert_same([part[[row]] for part in together], alone)


@pytest.mark.parametrize("unmasking", [HALF, "static", "factor", {"type": "entropy_bounded"}])
def test_one_block_at_a_time_is_the_plain_loop(unmasking):
    model = block_model()
    ids, mask = mixed_prompts()
    tokens, rounds, calls = drawn(model, ids, mask, unmasking=unmasking, max_active_blocks=1)
    for row in range(4):
        expected = plain_loop(model, ids[row][mask[row] == 1], NEW, unmasking, 4)
        assert tokens[row].tolist() == expected[0].tolist()
        assert rounds[row].tolist() == expected[1].tolist() and calls[row] == expected[2]


def test_without_a_prompt_and_with_an_empty_one_in_a_batch():
    model = block_model()
    ids, mask = mixed_prompts()
    mask[0] = 0
    assert_same(
        [part[[0]] for part in drawn(model, ids, mask, unmasking=HALF)],
        drawn(model, None, None, unmasking=HALF),
    )


def test_a_block_enters_by_share_and_is_activated_by_share():
    pipe = Pipelining(max_blocks=3, add=0.25, activate=0.75)
    share = torch.tensor([[1.0, 0.5, 0.25, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0, 0.0]])
    active = pipe.active(share, torch.tensor([1, 0]))
    assert active.tolist() == [[False, True, True, True, False], [True, *[False] * 4]]
    assert pipe.activated(share)[0].tolist() == [True, True, False, False, False]


def test_a_block_that_is_not_activated_takes_only_sure_tokens():
    model = block_model()
    ids, mask = mixed_prompts()
    never = {"unmasking": "static", "max_active_blocks": 2, "early_threshold": 1.0}
    one = drawn(model, ids, mask, unmasking="static")
    two = drawn(model, ids, mask, **never, block_activate_threshold=1.0)
    # Nothing is taken early: the same tokens at as many calls.
    assert (one[0] == two[0]).all() and (one[2] == two[2]).all()
    ready = drawn(model, ids, mask, **never, block_activate_threshold=0.25)
    assert (ready[2] < one[2]).all()


def test_blocks_at_the_same_time_need_fewer_calls():
    ids, mask = mixed_prompts()
    calls = [
        drawn(block_model(), ids, mask, unmasking="static", max_active_blocks=number,
              block_activate_threshold=0.25)[2].sum()
        for number in (1, 2, 4)
    ]  # fmt: skip
    assert calls[0] > calls[1] > calls[2]


@pytest.mark.parametrize("mode", ["threshold", "pipelined"])
def test_a_row_ends_behind_its_end_token_and_others_go_on(mode):
    model = block_model()
    ids, mask = mixed_prompts()
    # With 0 every block in work takes all that it has: the end finds tokens behind it.
    settings = MODES[mode] | {"unmasking": "static"}
    settings |= {"early_threshold": 0.0} if mode == "pipelined" else {}
    free = drawn(model, ids, mask, **settings)
    end = int(free[0][0, 1])
    tokens, rounds, calls = drawn(model, ids, mask, **settings, eos_token_id=end)
    for row in range(4):
        expected = free[0][row].tolist()
        stop = expected.index(end) + 1 if end in expected else NEW
        assert tokens[row].tolist() == expected[:stop] + [0] * (NEW - stop)
        assert (rounds[row, :stop] >= 0).all() and (rounds[row, stop:] == -1).all()
    assert calls[0] < free[2][0]


def test_the_output_reports_tokens_and_calls():
    ids, mask = mixed_prompts()
    out = block_model().generate(
        ids, mask, max_new_tokens=8, unmasking="static", return_dict_in_generate=True,
        eos_token_id=-1,
    )  # fmt: skip
    # 6, 11, 9 and 8 tokens before: masks of the first block, and of blocks that are cut at 8.
    assert out.calls.tolist() == [10, 9, 11, 8]
    assert out.tokens_per_call.tolist() == pytest.approx([8 / calls for calls in (10, 9, 11, 8)])
    assert (out.sequences[:, :11] == ids).all() and (out.rounds[:, :11] == -1).all()
    assert out.sequences.shape == out.rounds.shape == (4, 19)


class Steps:
    def __call__(self, ids, scores, cur_step):
        return scores


REFUSALS = {
    "a prompt too long": ({"max_new_tokens": 60}, "72 positions in whole blocks of 4.*reads 64"),
    "a temperature below 0": ({"temperature": -1.0}, r"temperature must be at least 0, got -1\.0"),
    "a temperature without end": ({"temperature": float("inf")}, "a finite number, got inf"),
    "a temperature that is none": ({"temperature": "hot"}, "temperature must be a finite number"),
    "no new token": ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, got 0"),
    "an unknown setting": ({"max_lenth": 5}, "generate takes no max_lenth"),
    "a block of nothing": ({"block_size": -1}, "block_size must be at least 1, got -1"),
    "a part that is none": ({"sub_block_size": 3}, "sub_block_size=3 must divide the block of 4"),
    "no such rule": ({"unmasking": "thresold"}, "Unknown unmasking .*did you mean 'threshold'"),
    "two caches": ({"dual_cache": True, "use_cache": False}, "use_cache=False keeps none"),
    "no block": ({"max_active_blocks": 0}, "max_active_blocks must be at least 1"),
    "no share": (
        {"max_active_blocks": 2, "block_add_threshold": 1.5},
        r"block_add_threshold is a share .* got 1.5",
    ),
    "late": (
        {"max_active_blocks": 2, "block_add_threshold": 0.9, "block_activate_threshold": 0.5},
        "block_add_threshold=0.9 must not be above",
    ),
    "early for one block": ({"early_threshold": 0.5}, "give max_active_blocks, too"),
    "a plan for a rule without": (
        {"unmasking": "klass", "steps_per_block": 2},
        "the rule 'klass' decides by itself how many tokens",
    ),
    "no share of tokens": ({"temperature": 1.0, "top_p": 0.0}, r"top_p must lie in \(0, 1\]"),
    "a processor that wants more": ({"logits_processor": Steps()}, "takes ids, scores, cur_step"),
}


@pytest.mark.parametrize(("settings", "message"), REFUSALS.values(), ids=REFUSALS.keys())
def test_what_cannot_be_decoded_is_refused_in_one_sentence(settings, message):
    ids, mask = mixed_prompts()
    with pytest.raises(ValueError, match=message):
        block_model().generate(ids, mask, **{"max_new_tokens": 4} | settings)


@pytest.mark.parametrize("verify", [False, True], ids=["plain", "verified"])
def test_a_prompt_that_fills_the_window_is_refused(verify):
    with pytest.raises(ValueError, match="make 68 positions in whole blocks of 4, .* reads 64"):
        block_model().generate(torch.full((1, 64), 5), max_new_tokens=1, verify_with_base=verify)


def test_a_mask_in_a_prompt_is_refused():
    with pytest.raises(ValueError, match=f"A prompt holds the mask token {MASK}"):
        block_model().generate(torch.tensor([[3, MASK]]), max_new_tokens=4)


@pytest.mark.parametrize("mode", ["static", "pipelined", "full attention, dual"])
def test_a_noise_input_gets_noise_where_tokens_are_open(mode):
    model, _ = to_block_diffusion(causal(), mask_token_id=MASK, noise_dim=3)
    with torch.no_grad():
        model.eval().noise_proj.weight.mul_(30.0)
    ids, mask = mixed_prompts()
    seen = []

    def watch(module, args, kwargs):
        seen.append((kwargs["input_ids"].clone(), kwargs["noise"]))

    handle = model.register_forward_pre_hook(watch, with_kwargs=True)
    together = drawn(model, ids, mask, streams(), **MODES[mode])
    handle.remove()
    for tokens, noise in seen:
        assert not noise[tokens != MASK].any()
    assert seen[0][1].any()
    alone = drawn(model, ids[[0]][:, mask[0] == 1], None, streams([0]), **MODES[mode])
    assert_same([part[[0]] for part in together], alone)
    if mode != "full attention, dual":
        assert_same(together, drawn(model, ids, mask, streams(), use_cache=False, **MODES[mode]))
    # At temperature 0 the noise alone decides.
    settings = {"max_new_tokens": 12, "unmasking": "static", "steps_per_block": 1}
    one, other = (
        model.generate(ids, mask, generator=torch.Generator().manual_seed(seed), **settings)
        for seed in (0, 1)
    )
    assert not torch.equal(one, other)


def test_a_shifted_head_needs_a_token_before_the_first():
    for inputs in ((None, None), (torch.tensor([[5], [6]]), torch.tensor([[0], [1]]))):
        with pytest.raises(ValueError, match="A prompt is empty, and a shifted head"):
            drawn(block_model(shift=True), *inputs, bos_token_id=-1)


def test_a_plan_with_another_cache_is_refused():
    with pytest.raises(ValueError, match="Unknown cache 'both'; there are: none, finished, dual"):
        DecodingPlan(4, cache="both")


def test_decode_by_hand_gives_what_generate_gives():
    model = block_model()
    ids, mask = mixed_prompts()
    config = BlockDiffusionGenerationConfig(unmasking=HALF, eos_token_id=-1)
    plan = model.decoding_plan(config)
    prompts = model.prompts(ids, mask, plan.block_size)
    found = decode(model, prompts, NEW, dataclasses.replace(plan, cache="none"))
    assert found.ids.shape[1] % 4 == 0 and not found.real[:, 0].all()
    sequences, _ = prompts.undone(found, NEW, 0)
    assert (sequences[:, -NEW:] == drawn(model, ids, mask, unmasking=HALF)[0]).all()
