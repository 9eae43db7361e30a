"""Blocks that the base verifies: the law of what is decoded is the causal model's."""

from __future__ import annotations

import itertools

import pytest
import torch
from block_models import FAMILIES, MASK, block_model, causal, mixed_prompts, streams
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig

from hf_ddistill.convert import to_block_diffusion
from hf_ddistill.decoding.processing import ProxySteering
from hf_ddistill.decoding.verified import adapters_off
from hf_ddistill.laboratory.branching import outcomes
from hf_ddistill.parameterizations.sharpening import sharpened

K = 5  # the last of them the mask


def tiny(seed=0):
    """A causal model of four tokens and a mask, in float64."""
    torch.manual_seed(seed)
    shape = {"vocab_size": K, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    shape |= {"num_attention_heads": 2, "max_position_embeddings": 16}
    lm = AutoModelForCausalLM.from_config(LlamaConfig(**shape)).double().eval()
    for weight in lm.parameters():
        weight.data.mul_(6.0 if weight.ndim > 1 else 1.0)
    return lm.requires_grad_(False)


def sequential(lm, prompt, new, law=sharpened):
    """The law of `new` tokens behind a prompt, (4,) * new, from logits that are rounded to float32
    as decoding does."""
    found = torch.ones((), dtype=torch.float64)
    for length in range(new):
        before = list(itertools.product(range(K - 1), repeat=length))
        prefixes = torch.tensor(before, dtype=torch.int64)
        ids = torch.cat([prompt.expand(len(prefixes), -1), prefixes], 1)
        logits = lm(ids).logits[:, -1].float().double()
        logits[:, K - 1] = -1e6
        p = law(logits.log_softmax(-1)).exp()[:, :-1]
        found = found[..., None] * p.view(*[K - 1] * length, K - 1)
    return found


def decoded(model, prompt, new, **settings):
    """The same law, by all branches of `generate`."""
    settings = {"max_new_tokens": new, "temperature": 1.0, "eos_token_id": []} | settings

    def run(rows, generator):
        ids = prompt.expand(len(rows), -1)
        out = model.generate(ids, generator=generator, verify_with_base=True, **settings)
        return out[:, -new:]

    law = torch.zeros([K - 1] * new, dtype=torch.float64)
    for weight, x in outcomes(run, torch.ones(1, dtype=torch.float64), 4096):
        law.index_put_(tuple(x.T), weight, accumulate=True)
    return law


def adapted(seed=1):
    """The tiny model's blocks with adapters that draft something else."""
    lm = tiny()
    block, _ = to_block_diffusion(lm, mask_token_id=K - 1, block_size=2)
    torch.manual_seed(seed)
    lora = LoraConfig(r=2, target_modules=["q_proj", "v_proj", "down_proj"])
    model = get_peft_model(block, lora).double().eval()
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(std=2.0)
    return tiny(), model


PROMPT = torch.tensor([[1]])


def distance(one, other):
    return float((one - other).abs().sum() / 2)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"temperature": 0.7, "top_k": 2},
        pytest.param({"top_p": 0.8, "use_cache": False}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_the_law_is_not_that_of_the_model_without_its_adapters(settings):
    lm, model = adapted()
    shape = [settings.get(name, none) for name, none in (("temperature", 1.0), ("top_k", None))]
    law = sequential(lm, PROMPT, 3, lambda x: sharpened(x, *shape, settings.get("top_p", 1.0)))
    assert distance(decoded(model, PROMPT, 3, **settings), law) < 1e-8


def test_adapters_change_nothing_that_the_test_of_the_law_could_see():
    lm, model = adapted()
    causal_law = sequential(lm, PROMPT, 2)
    with torch.no_grad():
        changed = sequential(lambda ids: model(ids, block_size=1), PROMPT, 2)
        inner = model.get_base_model()
        with adapters_off(inner):
            same = inner(torch.tensor([[1, 2]]), block_size=1).logits
    assert distance(changed, causal_law) > 0.05
    torch.testing.assert_close(same, lm(torch.tensor([[1, 2]])).logits)


@pytest.mark.parametrize(
    ("family", "shift"),
    [("llama", False), pytest.param("gemma3", True, marks=pytest.mark.slow)],
)
def test_the_likeliest_tokens_are_not_those_of_the_causal_model(family, shift):
    assert family in FAMILIES
    model, lm, (ids, mask) = block_model(family, shift), causal(family), mixed_prompts()
    settings = {"max_new_tokens": 9, "temperature": 0.0, "eos_token_id": []}
    settings |= {"verify_with_base": True, "return_dict_in_generate": True}
    out = model.generate(ids, mask, **settings)
    for row, real in zip(out.sequences, mask.bool(), strict=True):
        x = row[:11][real][None]
        for _ in range(9):
            logits = lm(x).logits[:, -1].index_fill(-1, torch.tensor([MASK]), -1e6)
            x = torch.cat([x, logits.argmax(-1)[:, None]], 1)
        assert torch.equal(row[-9:], x[0, -9:])
    # Two calls a round, at least a token and at most a block; one call for a last token alone.
    assert bool((out.calls <= 2 * 9).all()) and bool((out.calls >= 9 // 4).all())
    torch.testing.assert_close(out.tokens_per_call, 9 / out.calls)


def test_a_row_hangs_on_its_batch_or_the_cache():
    model, (ids, mask) = block_model(), mixed_prompts()
    settings = {"max_new_tokens": 9, "temperature": 1.0, "verify_with_base": True}
    settings |= {"return_dict_in_generate": True, "eos_token_id": [7, 8, 9, 10, 11]}
    together = model.generate(ids, mask, generator=streams(), **settings)
    without = model.generate(ids, mask, generator=streams(), use_cache=False, **settings)
    assert torch.equal(without.sequences, together.sequences)
    for row in range(4):
        prompt = ids[row][mask[row].bool()][None]
        alone = model.generate(prompt, generator=streams([row]), **settings)
        assert torch.equal(alone.sequences[0, -9:], together.sequences[row, -9:])
        assert int(alone.calls) == int(together.calls[row])
        counts = alone.rounds[0, -9:] >= 0
        ends = torch.isin(alone.sequences[0, -9:], torch.tensor([7, 8, 9, 10, 11]))
        assert counts.sum() == (9 if not ends.any() else ends.long().argmax() + 1)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"repetition_penalty": 1.2}, "does not act on repetition_penalty"),
        ({"no_repeat_ngram_size": 2}, "does not act on bad_words_ids and no_repeat"),
        ({"max_active_blocks": 2}, "does not act on max_active_blocks"),
        ({"dual_cache": True}, "does not act on dual_cache"),
        ({"output_scores": True, "return_dict_in_generate": True}, "output_scores=True is not"),
    ],
    ids=str,
)
def test_what_has_no_meaning_from_left_to_right_is_no_sentence(settings, said):
    ids, mask = mixed_prompts()
    with pytest.raises(ValueError, match=said):
        block_model().generate(ids, mask, max_new_tokens=4, verify_with_base=True, **settings)


def test_proxy_steering_and_an_empty_prompt_are_no_sentence():
    model, ids = block_model(), torch.tensor([[3, 4]])
    steering = ProxySteering(model, model)
    with pytest.raises(ValueError, match="does not act on ProxySteering"):
        model.generate(ids, max_new_tokens=4, verify_with_base=True, logits_processor=steering)
    with pytest.raises(ValueError, match="A prompt is empty, and the base that verifies"):
        mask = torch.tensor([[0, 0]])
        model.generate(ids, mask, max_new_tokens=4, verify_with_base=True, bos_token_id=-1)


@pytest.mark.parametrize("ends", [[], [7, 8, 9, 10, 11]], ids=["of their own length", "at an end"])
def test_a_verified_row_that_is_finished_is_in_no_call(ends):
    model, (ids, mask) = block_model(), mixed_prompts()
    seen = []

    def watch(module, args, kwargs):
        seen.append((len(kwargs["input_ids"]), kwargs.get("causal", False)))

    handle = model.register_forward_pre_hook(watch, with_kwargs=True)
    settings = {"max_new_tokens": 9, "temperature": 1.0, "verify_with_base": True}
    try:
        out = model.generate(
            ids,
            mask,
            generator=streams(),
            eos_token_id=ends,
            return_dict_in_generate=True,
            **settings,
        )
    finally:
        handle.remove()
    rounds = [
        sum(1 + max(block) for block in blocks_of(row[-9:].tolist(), int(length)))
        for row, length in zip(out.rounds, mask.sum(1), strict=True)
    ]
    based = [rows for rows, is_base in seen if is_base]
    assert based == [sum(n > number for n in rounds) for number in range(max(rounds))]
    assert len(set(based)) > 1


def blocks_of(rounds, length):
    """The rounds of a row's new tokens up to its end, block by block."""
    places = range(length, length + len(rounds))
    return [
        [at for place, at in zip(places, rounds, strict=True) if place // 4 == block and at >= 0]
        for block in sorted(
            {place // 4 for place, at in zip(places, rounds, strict=True) if at >= 0}
        )
    ]
