"""Block diffusion on causal models: who sees whom, which output speaks of which token, and what
becomes of the vocabulary."""

from __future__ import annotations

import copy

import pytest
import torch
from block_models import FAMILIES, MASK, SHAPE, K, block_model, causal
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, GraniteConfig, LlamaConfig, PreTrainedTokenizerFast

from hf_ddistill import as_denoiser
from hf_ddistill.convert import to_block_diffusion
from hf_ddistill.denoisers import Autoregressive
from hf_ddistill.models import (
    BlockDiffusionConfig,
    BlockDiffusionLM,
    as_causal_teacher,
    check_same_tokens,
)

LENGTH = 12


def tokens(rows=2, length=LENGTH, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, MASK, (rows, length), generator=generator)


def changed(model, position, ids, **settings):
    """The positions whose logits depend on the token at one position of `ids`, or of
    `settings[name]` if `position` is (name, position)."""
    name, position = position if isinstance(position, tuple) else ("input_ids", position)
    inputs = {"input_ids": ids, **settings}
    other = inputs[name].clone()
    other[:, position] = (other[:, position] + 7) % 30 + 3
    before, after = model(**inputs).logits, model(**inputs | {name: other}).logits
    return sorted({int(i) for i in ((before - after).abs() > 1e-6).any(-1).any(0).nonzero()})


def blocks(*numbers, size=4):
    return [position for b in numbers for position in range(b * size, (b + 1) * size)]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_block_sees_itself_and_those_before_it(family):
    model, ids = block_model(family), tokens()
    # A window of six tokens reaches farther through two layers and more.
    assert changed(model, 5, ids) == blocks(1, 2)
    assert changed(model, 11, ids) == blocks(2)
    assert changed(model, 11, ids, block_size=12) == blocks(0, 1, 2)
    assert changed(model, 11, ids, block_size=1) == [11]


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_a_noisy_block_sees_itself_and_the_clean_ones_before_it(family):
    model, noisy, clean = block_model(family), tokens(seed=1), tokens(seed=2)
    assert changed(model, 5, noisy, clean_ids=clean) == blocks(1)
    # Its own clean copy is the answer.
    assert changed(model, ("clean_ids", 5), noisy, clean_ids=clean) == blocks(2)


@pytest.mark.parametrize("shift", [False, True], ids=["in place", "shifted"])
@pytest.mark.parametrize("family", FAMILIES)
def test_two_copies_in_one_call_are_one_call_for_each_block(family, shift):
    model, noisy, clean = block_model(family, shift), tokens(seed=1), tokens(seed=2)
    together = model(noisy, clean_ids=clean).logits
    for start in range(0, LENGTH, 4):
        block = slice(start, start + 4)
        alone = model(torch.cat([clean[:, :start], noisy[:, block]], 1)).logits[:, block]
        torch.testing.assert_close(together[:, block], alone, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_not_attended(family, side):
    model, ids = block_model(family), tokens(1, 8)
    padding = torch.zeros(1, 4, dtype=torch.int64)
    parts = [padding, ids] if side == "left" else [ids, padding]
    padded = torch.cat(parts, 1)
    real = torch.cat([part.bool() for part in parts], 1)
    found = model(padded, attention_mask=real.long()).logits
    torch.testing.assert_close(found[real], model(ids).logits[0], atol=2e-4, rtol=2e-4)
    place = 1 if side == "left" else 9
    assert set(changed(model, place, padded, attention_mask=real.long())) <= set(
        blocks(0) if side == "left" else blocks(2)
    )
    assert found.isfinite().all()


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_implementations_agree(family):
    model, ids, clean = block_model(family), tokens(), tokens(seed=2)
    real = torch.ones_like(ids)
    real[0, :4] = 0
    eager = copy.deepcopy(model)
    eager.set_attn_implementation("eager")
    for inputs in ({}, {"clean_ids": clean}, {"attention_mask": real}):
        one, other = model(ids, **inputs).logits, eager(ids, **inputs).logits
        where = real.bool() if "attention_mask" in inputs else torch.ones_like(real).bool()
        torch.testing.assert_close(one[where], other[where], atol=2e-4, rtol=2e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_flex_attention_agrees():
    # Compiling with gradients makes torch warn of its own look at the inputs.
    flex = copy.deepcopy(block_model()).requires_grad_(False)
    flex.set_attn_implementation("flex_attention")
    ids, clean = tokens(), tokens(seed=2)
    one, other = block_model()(ids, clean_ids=clean).logits, flex(ids, clean_ids=clean).logits
    torch.testing.assert_close(one, other, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_read_as_the_causal_model_it_is_that_model(family):
    lm, model, ids = causal(family), block_model(family), tokens()
    theirs, ours = lm(ids).logits, model(ids, causal=True).logits
    assert torch.equal(ours[:, 1:], theirs[:, :-1])
    at = torch.tensor([3, ids.shape[1] + 7])
    expected = torch.stack([theirs[0, 2], theirs[1, 6]])
    torch.testing.assert_close(model(ids, causal=True, at=at).logits, expected)


def test_a_teacher_says_of_a_token_what_it_says_before_it():
    lm, ids = causal(), tokens()
    teacher = Autoregressive(as_denoiser(as_causal_teacher(lm, block_model().config)))
    where = torch.zeros_like(ids, dtype=torch.bool)
    where[:, [4, 9]] = True
    log_p = teacher.at(ids, 0.0, where).log_conditional[:, 0]
    logits = lm(ids).logits.double()
    logits[..., MASK] = -torch.inf
    expected = logits.log_softmax(-1)[:, [3, 8]].flatten(0, 1)
    clean = torch.arange(K) != MASK
    torch.testing.assert_close(log_p[:, clean].double(), expected[:, clean], atol=1e-5, rtol=1e-5)
    likelihood = teacher.log_likelihood(ids, where)
    chosen = expected.gather(1, ids[:, [4, 9]].flatten()[:, None])[:, 0]
    torch.testing.assert_close(likelihood[where].double(), chosen, atol=1e-5, rtol=1e-5)
    assert not likelihood[~where].any()


def test_a_shifted_head_reads_a_block_start_from_the_clean_copy():
    model, noisy, clean = block_model(shift=True), tokens(seed=1), tokens(seed=2)
    # Token 4 starts a block: its output is that of position 3, in the clean copy.
    assert 4 in changed(model, ("clean_ids", 3), noisy, clean_ids=clean)
    assert 4 not in changed(model, 3, noisy, clean_ids=clean)
    assert 4 not in changed(model, 5, noisy, clean_ids=clean)
    assert 5 in changed(model, 4, noisy, clean_ids=clean)


def test_a_shifted_head_does_not_read_the_first_token_from_its_answer():
    model, noisy, clean = block_model(shift=True), tokens(seed=1), tokens(seed=2)
    assert 0 not in changed(model, ("clean_ids", 0), noisy, clean_ids=clean)


def test_only_asked_positions_go_through_the_head():
    model, ids = block_model(), tokens()
    at = torch.rand(ids.shape, generator=torch.Generator().manual_seed(0)) < 0.4
    places = at.flatten().nonzero()[:, 0]
    torch.testing.assert_close(model(ids, at=places).logits, model(ids).logits[at])


def test_columns_may_stand_in_any_order():
    from_cache = block_model()
    ids = tokens()
    columns = torch.arange(LENGTH).roll(4)
    found = from_cache(ids[:, columns], columns=columns, block_size=4).logits
    torch.testing.assert_close(found, from_cache(ids).logits[:, columns], atol=2e-4, rtol=2e-4)


def tokenizer(size, **special):
    vocabulary = {f"t{number}": number for number in range(size)}
    model = models.WordLevel(vocab=vocabulary, unk_token="t0")
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model), **special)


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("rows", [10, 12], ids=["full", "room"])
def test_a_mask_token_is_added_where_there_is_none(rows, tied):
    shape = SHAPE | {"vocab_size": rows, "tie_word_embeddings": tied}
    lm = AutoModelForCausalLM.from_config(LlamaConfig(**shape))
    model, with_mask = to_block_diffusion(lm, tokenizer(10))
    assert with_mask.mask_token_id == model.config.mask_token_id == 10
    assert model.config.vocab_size == max(rows, 11) == len(model.get_input_embeddings().weight)
    same = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert same == tied
    # The rest is as it was, and the new row their mean.
    weight = model.get_input_embeddings().weight
    old = lm.get_input_embeddings().weight
    assert torch.equal(weight[:10], old[:10]) and len(old) == rows
    others = torch.cat([weight[:10], weight[11:]])
    torch.testing.assert_close(weight[10], others.mean(0))
    assert lm.config.vocab_size == rows and tokenizer(10).mask_token_id is None


def test_the_mask_token_of_a_tokenizer_is_taken_as_it_is():
    lm = AutoModelForCausalLM.from_config(LlamaConfig(**SHAPE | {"vocab_size": 10}))
    model, same = to_block_diffusion(lm, tokenizer(10, mask_token="t7"))
    assert model.config.mask_token_id == same.mask_token_id == 7
    assert torch.equal(model.get_input_embeddings().weight, lm.get_input_embeddings().weight)


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_a_saved_model_is_the_same_and_its_head_stays_tied(tied, tmp_path):
    shape = SHAPE | {"vocab_size": 10, "tie_word_embeddings": tied}
    model, _ = to_block_diffusion(
        AutoModelForCausalLM.from_config(LlamaConfig(**shape)), tokenizer(10), block_size=3
    )
    model.save_pretrained(tmp_path)
    again = BlockDiffusionLM.from_pretrained(tmp_path)
    ids = torch.arange(6)[None]
    assert torch.equal(model.eval()(ids).logits, again.eval()(ids).logits)
    assert again.config.block_size == 3 and again.config.tie_word_embeddings == tied
    with torch.no_grad():
        again.get_input_embeddings().weight[4] += 1
    head, table = again.get_output_embeddings().weight, again.get_input_embeddings().weight
    assert torch.equal(head, table) == tied


def test_a_teacher_may_have_fewer_tokens_and_gives_the_others_nothing():
    lm = causal()
    config = BlockDiffusionConfig(
        text_config=copy.deepcopy(lm.config), mask_token_id=40, vocab_size=42
    )
    teacher = as_causal_teacher(lm, config)
    logits = teacher(tokens(), causal=True).logits
    assert logits.shape[-1] == 42 and (logits.softmax(-1)[..., 40:] == 0).all()


def lm(**more):
    return AutoModelForCausalLM.from_config(LlamaConfig(**SHAPE | {"vocab_size": 10} | more))


REFUSALS = {
    "no mask token": (lambda: to_block_diffusion(lm()), "has no mask token; give its tokenizer"),
    "no room": (
        lambda: to_block_diffusion(
            lm(tie_word_embeddings=True), tokenizer(10), grow_vocabulary=False
        ),
        "10 tokens in 10 tied embeddings leave no row for a mask token",
    ),
    "no such row": (
        lambda: to_block_diffusion(lm(), mask_token_id=12),
        "mask_token_id=12 must be from 0 to 9",
    ),
    "no block": (
        lambda: to_block_diffusion(lm(), mask_token_id=9, block_size=0),
        "block_size must be at least 1, got 0",
    ),
    "more than a head": (
        lambda: to_block_diffusion(
            AutoModelForCausalLM.from_config(GraniteConfig(**SHAPE, logits_scaling=2.0)),
            mask_token_id=3,
        ),
        "GraniteForCausalLM does more than its decoder and its head do",
    ),
    "another tokenizer": (
        lambda: check_same_tokens(tokenizer(10), tokenizer(9)),
        "token 9 is 't9' for it and nothing for the student",
    ),
    "a smaller student": (
        lambda: as_causal_teacher(
            causal(), BlockDiffusionConfig(text_config=LlamaConfig(vocab_size=20), mask_token_id=3)
        ),
        "The teacher has 40 tokens and the student 20",
    ),
    "two lengths": (
        lambda: block_model()(tokens(), clean_ids=tokens(length=8)),
        "they are two states of the same tokens",
    ),
}


@pytest.mark.parametrize(("call", "message"), REFUSALS.values(), ids=REFUSALS.keys())
def test_what_cannot_be_is_refused_in_one_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_first_token_that_differs_is_named():
    vocabulary = {"t0": 0, "cat": 1, "dog": 2}
    other = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(vocab=vocabulary, unk_token="t0"))
    )
    with pytest.raises(ValueError, match="token 1 is 't1' for it and 'cat' for the student"):
        check_same_tokens(tokenizer(3), other)


def test_flash_attention_is_refused():
    model = copy.deepcopy(block_model())
    model.lm.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match="takes no mask, which blocks need; load the model with"):
        model(tokens())
