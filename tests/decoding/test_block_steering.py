"""What stands between a model and its tokens: a cache that approximates, processors, proxies."""

from __future__ import annotations

import copy

import pytest
import torch
from block_models import HALF, MASK, assert_same, block_model, causal, drawn, mixed_prompts
from transformers import (
    LogitsProcessorList,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SuppressTokensLogitsProcessor,
)

from hf_ddistill.convert import to_block_diffusion
from hf_ddistill.models import ProxySteering

MODES = {
    "threshold": {"unmasking": HALF},
    "pipelined": {"unmasking": HALF, "max_active_blocks": 3, "early_threshold": 0.6},
    "full attention, blocks": {"unmasking": HALF, "block_size": 64, "sub_block_size": 4},
}


def arithmetic(count, generator):
    """Sequences of 16 tokens below 11: four random ones, then each three more than the one four
    places before."""
    first = torch.randint(0, 11, (count, 4), generator=generator)
    return torch.cat([(first + 3 * number) % 11 for number in range(4)], 1)


@pytest.mark.slow
def test_a_dual_cache_decodes_nearly_the_same_tokens():
    """On a trained model: most tokens are those of decoding without, and as many are right."""
    generator = torch.Generator().manual_seed(0)
    lm = copy.deepcopy(causal()).requires_grad_(True)
    lm.config.max_position_embeddings = 16
    torch.manual_seed(0)
    for weight in lm.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.1)
    model, _ = to_block_diffusion(lm, mask_token_id=MASK, block_size=16)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(150):
        x_0 = arithmetic(64, generator)
        masked = torch.rand(x_0.shape, generator=generator) < torch.rand(64, 1, generator=generator)
        masked[:, -1] = True
        log_p = model(x_0.masked_fill(masked, MASK), at=masked.flatten().nonzero()[:, 0]).logits
        torch.nn.functional.cross_entropy(log_p, x_0[masked]).backward()
        optimizer.step()
        optimizer.zero_grad()
    x_0 = arithmetic(100, generator)
    settings = {"unmasking": {"type": "threshold"}, "sub_block_size": 4, "max_new_tokens": 10}
    for blocks in (1, 2):
        found = [
            drawn(model.eval(), x_0[:, :6], None, **settings, **cache, max_active_blocks=blocks)[0]
            for cache in ({"use_cache": False}, {"dual_cache": True})
        ]
        right = [float((tokens == x_0[:, 6:]).float().mean()) for tokens in found]
        agree = float((found[0] == found[1]).float().mean())
        print(f"{blocks} at a time: agree {agree:.3f}, right {right[0]:.3f} and {right[1]:.3f}")
        assert 0.8 < agree and abs(right[0] - right[1]) < 0.05 and right[0] > 0.3


DUAL = {"block_size": 64, "sub_block_size": 4, "dual_cache": True}
TWO = {"max_active_blocks": 2, "early_threshold": 1.0, "block_add_threshold": 0.5}
WIDTHS = {
    "finished: a block is read once more": ({}, 8, [12, 4, 4, 4, 8, 4, 4, 4]),
    "dual: only the block after its first call": (DUAL, 6, [14, 4, 4, 4, 14, 4, 4, 4]),
    # The second block enters after two of the first's four calls, and decides none before it ends.
    "dual, two blocks: again when one enters or ends": (
        DUAL | TWO,
        6,
        [14, 4, 14, 8, 14, 4, 4, 4],
    ),
}


@pytest.mark.parametrize(("settings", "prompt", "widths"), WIDTHS.values(), ids=WIDTHS.keys())
def test_a_cache_leaves_this_much_to_compute(settings, prompt, widths):
    model, found = block_model(), []

    def watch(module, args, kwargs):
        found.append(kwargs["input_ids"].shape[1])

    handle = model.register_forward_pre_hook(watch, with_kwargs=True)
    ids = torch.arange(3, 3 + prompt)[None]
    try:
        drawn(model, ids, None, max_new_tokens=8, unmasking="static", **settings)
    finally:
        handle.remove()
    assert found == widths


@pytest.mark.parametrize("mode", ["threshold", "pipelined", "full attention, blocks"])
def test_steering_by_a_proxy_works_with_caches_and_mixed_prompts(mode):
    model, tuned, untuned = block_model(), block_model("qwen2"), block_model("qwen2", True)
    steering, settings = ProxySteering(tuned, untuned, 0.5), MODES[mode]
    ids, mask = mixed_prompts()
    found = drawn(model, ids, mask, logits_processor=steering, **settings)
    bare = drawn(model, ids, mask, logits_processor=steering, use_cache=False, **settings)
    assert_same(found, bare)
    alone = drawn(model, ids[[0]][:, mask[0] == 1], None, logits_processor=[steering], **settings)
    assert_same([part[[0]] for part in found], alone)
    assert not torch.equal(found[0], drawn(model, ids, mask, **settings)[0])


def test_steering_adds_what_tuning_changed():
    model, small = block_model(), block_model("qwen2")
    ids, mask = mixed_prompts()
    plain = drawn(model, ids, mask, unmasking=HALF)
    idle = ProxySteering(small, small)
    assert_same(plain, drawn(model, ids, mask, unmasking=HALF, logits_processor=idle))
    # A model steered by itself against another one is the first, at scale 1, from the other.
    swap = ProxySteering(small, model)
    assert_same(
        drawn(model, ids, mask, unmasking=HALF, logits_processor=swap),
        drawn(small, ids, mask, unmasking=HALF),
    )


def test_processors_of_transformers_apply():
    model = block_model()
    ids, mask = mixed_prompts()
    plain = drawn(model, ids, mask, unmasking="static")[0]
    barred = plain.unique().tolist()[:20]
    suppress = LogitsProcessorList([SuppressTokensLogitsProcessor(barred)])
    found = drawn(model, ids, mask, unmasking="static", logits_processor=suppress)[0]
    assert not torch.isin(found, torch.tensor(barred)).any() and (found != MASK).all()
    # From left to right: no two tokens follow each other twice.
    order = {"type": "static", "score": "left_to_right"}
    ngrams = LogitsProcessorList([NoRepeatNGramLogitsProcessor(2)])
    out = model.generate(ids[[1]], max_new_tokens=25, unmasking=order, eos_token_id=-1,
                         logits_processor=ngrams)[0].tolist()  # fmt: skip
    pairs = list(zip(out[10:], out[11:], strict=False))
    assert len(pairs) == len(set(pairs))


def test_a_processor_sees_the_row_without_its_padding():
    model = block_model()
    ids, mask = mixed_prompts()

    def by_length(before, scores):
        place = torch.full_like(scores[:, :1], 3 + before.shape[1] % 30, dtype=torch.int64)
        return scores.scatter_add(1, place, torch.full_like(scores[:, :1], 5.0))

    for processor in (RepetitionPenaltyLogitsProcessor(3.0), by_length):
        settings = {"unmasking": HALF, "logits_processor": [processor]}
        together = drawn(model, ids, mask, **settings)
        alone = drawn(model, ids[[0]][:, mask[0] == 1], None, **settings)
        assert_same([part[[0]] for part in together], alone)
    seen = []
    drawn(model, ids[[1]], None, unmasking="static", max_new_tokens=1,
          logits_processor=lambda before, scores: seen.append(before) or scores)  # fmt: skip
    # One prompt of eleven tokens: of the columns 8 to 11 of its last block the one that is open.
    assert [before.tolist() for before in seen] == [ids[[1], :11].tolist()]


def test_models_of_other_tokens_do_not_steer():
    other = copy.copy(block_model("qwen2"))
    other.config = copy.copy(other.config)
    other.config.mask_token_id = 5
    with pytest.raises(ValueError, match="mask_token_id 39 and 5"):
        ProxySteering(block_model("qwen2"), other)
    with pytest.raises(ValueError, match="mask_token_id=39 and those that steer it 5"):
        drawn(
            block_model(), torch.tensor([[3]]), None, logits_processor=ProxySteering(other, other)
        )
