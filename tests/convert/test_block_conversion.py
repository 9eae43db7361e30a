"""What conversion takes over, what loading refuses, and what a block model is to transformers."""

from __future__ import annotations

import copy

import pytest
import torch
from block_models import MASK, K, block_model, causal
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, GenerationConfig

from hf_ddistill import DiscreteDiffusionPipeline, as_denoiser
from hf_ddistill.convert import to_block_diffusion
from hf_ddistill.models import BlockDiffusionConfig, BlockDiffusionLM


def lm_with(**settings):
    lm = copy.deepcopy(causal())
    lm.generation_config = GenerationConfig(**settings)
    return lm


def only(token):
    return lambda ids, scores: torch.full_like(scores, -50.0).index_fill(
        -1, torch.tensor([token]), 0.0
    )


def test_every_end_token_of_the_language_model_ends_a_row(tmp_path):
    model, _ = to_block_diffusion(lm_with(eos_token_id=[2, 7], pad_token_id=0), mask_token_id=MASK)
    model.save_pretrained(tmp_path)
    for opened in (model, BlockDiffusionLM.from_pretrained(tmp_path)):
        for end in (2, 7):
            out = opened.generate(
                torch.tensor([[5, 6, 7, 8]]), max_new_tokens=8, logits_processor=only(end)
            )
            assert out[0, 4:].tolist() == [end] + [0] * 7


def test_a_models_settings_are_those_of_its_language_model(tmp_path):
    settings = {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0.01}
    settings |= {
        "repetition_penalty": 1.05,
        "max_length": 40,
        "eos_token_id": [2],
        "bos_token_id": 1,
    }
    settings |= {"suppress_tokens": [9], "pad_token_id": 0}
    model, _ = to_block_diffusion(lm_with(**settings), mask_token_id=MASK)
    model.save_pretrained(tmp_path)
    for opened in (model, AutoModelForMaskedLM.from_pretrained(tmp_path)):
        for name, value in settings.items():
            assert getattr(opened.generation_config, name) == value
        out = opened.generate(torch.tensor([[5, 6]]), generator=torch.Generator().manual_seed(0))
        assert out.shape == (1, 40)


def test_settings_that_did_not_draw_do_not_draw_behind_a_conversion():
    model, _ = to_block_diffusion(lm_with(temperature=0.6, top_k=20), mask_token_id=MASK)
    ids = torch.tensor([[5, 6]])
    one, other = (model.generate(ids, max_new_tokens=8) for _ in range(2))
    assert torch.equal(one, other) and model.generation_config.do_sample is False
    drawn = model.generate(ids, max_new_tokens=8, do_sample=True, num_return_sequences=20)
    assert len(drawn.unique(dim=0)) > 1
    heated = model.generate(ids, max_new_tokens=8, temperature=2.0, num_return_sequences=20)
    assert len(heated.unique(dim=0)) > 1


def test_a_setting_that_blocks_have_not_is_left_out_and_said():
    lm = lm_with(num_beams=4, length_penalty=2.0, cache_implementation="hybrid", eos_token_id=2)
    with pytest.warns(UserWarning, match="sets num_beams, length_penalty, which block decoding"):
        model, _ = to_block_diffusion(lm, mask_token_id=MASK)
    assert model.generation_config.num_beams is None
    assert model.generation_config.eos_token_id == 2


def test_a_language_models_folder_does_not_become_a_model_of_default_size(tmp_path, monkeypatch):
    causal().save_pretrained(tmp_path)
    block_model().save_pretrained(tmp_path / "blocks")

    def built(*args, **kwargs):
        raise AssertionError("a model was built")

    monkeypatch.setattr(AutoModelForCausalLM, "from_config", built)
    for kind in (BlockDiffusionLM, BlockDiffusionConfig):
        with pytest.raises(ValueError, match="A llama model is no block-diffusion model: make one"):
            kind.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="An empty BlockDiffusionConfig makes no model"):
        BlockDiffusionLM(BlockDiffusionConfig())
    with pytest.raises(ValueError, match="needs text_config"):
        BlockDiffusionConfig(mask_token_id=3)
    # Neither is a block model taken for a causal one, nor a causal one for a masked one.
    with pytest.raises(ValueError, match="LlamaConfig"):
        AutoModelForMaskedLM.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="BlockDiffusionConfig"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "blocks")


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("entered", [False, True], ids=["no process", "a process"])
def test_tokens_that_are_added_have_logits(tied, entered, tmp_path):
    family = "qwen2" if tied else "llama"
    model, _ = to_block_diffusion(causal(family), mask_token_id=MASK)
    model.eval()
    ids = torch.tensor([[3, 4, MASK, 5]])
    before = model(ids).logits
    if entered:
        as_denoiser(model)
    embeddings = model.resize_token_embeddings(K + 6, mean_resizing=False)
    assert embeddings.weight.shape[0] == K + 6 and model.config.mask_token_id == MASK
    assert model.config.vocab_size == model.config.text_config.vocab_size == K + 6
    found = model(ids).logits
    assert found.shape[-1] == K + 6
    torch.testing.assert_close(found[..., :K], before)
    assert as_denoiser(model).diffusion.vocab_size == K + 6
    entry = model.config.discrete_diffusion["process"]
    assert entry["vocab_size"] == K + 6 and entry["mask_token_id"] == MASK
    model.save_pretrained(tmp_path)
    again = BlockDiffusionLM.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(again(ids).logits, found)
    pipe = DiscreteDiffusionPipeline.from_model(again)
    assert pipe(input_ids=ids[:, :2], max_new_tokens=4).sequences.shape == (1, 6)


def test_the_mask_is_not_cut_off():
    model, _ = to_block_diffusion(causal(), mask_token_id=7)
    with pytest.raises(ValueError, match="7 tokens leave no row for the mask token 7; keep at"):
        model.resize_token_embeddings(7)
    assert model.resize_token_embeddings(8, mean_resizing=False).weight.shape[0] == 8
    assert model(torch.tensor([[1, 7]])).logits.shape[-1] == 8 == model.config.vocab_size


IDS = torch.tensor([[3, 4, MASK, 6, 7, MASK, MASK, 9], [MASK, 5, 6, 7, 8, 9, 10, MASK]])
TRUE = torch.tensor([[3, 4, 5, 6, 7, 11, 12, 9], [4, 5, 6, 7, 8, 9, 10, 11]])
LABELS = TRUE.masked_fill(IDS != MASK, -100)


def test_labels_give_the_mean_cross_entropy_of_masked_tokens():
    model, masked = block_model(), IDS == MASK
    out = model(IDS, labels=LABELS)
    log_p = out.logits.double().log_softmax(-1).gather(-1, TRUE[..., None])[..., 0]
    expected = -log_p[masked].mean()
    torch.testing.assert_close(out.loss, expected.float())
    places = masked.flatten().nonzero()[:, 0]
    torch.testing.assert_close(model(IDS, labels=LABELS, at=places).loss, out.loss)
    halved = model(IDS, labels=LABELS, num_items_in_batch=10).loss
    torch.testing.assert_close(halved, out.loss * 0.5)
    loss, logits = model(IDS, labels=LABELS, return_dict=False)
    assert torch.equal(loss, out.loss) and torch.equal(logits, out.logits)
    # As the causal model its loss is that model's, which says nothing of the first token.
    behind = TRUE.clone()
    behind[:, 0] = -100
    theirs = causal()(TRUE, labels=TRUE).loss
    torch.testing.assert_close(model(TRUE, labels=behind, causal=True).loss, theirs)


def test_labels_that_the_model_would_see_are_refused():
    with pytest.raises(ValueError, match="Every label is the token that input_ids shows"):
        block_model()(TRUE, labels=TRUE)
    # A few that a collator left as they are, or none at all, are no such thing.
    few = LABELS.masked_fill(IDS == MASK, -100)
    few[0, :2] = TRUE[0, :2]
    assert block_model()(TRUE, labels=few).loss > 0
    assert block_model()(TRUE, labels=torch.full_like(TRUE, -100)).loss == 0
    with pytest.raises(ValueError, match=f"labels hold the mask token {MASK}"):
        block_model()(IDS, labels=IDS)


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_hidden_states_attentions_and_embeddings_are_the_decoders(family):
    model = copy.deepcopy(block_model(family))
    layers = model.lm.config.num_hidden_layers
    plain = model(IDS).logits
    out = model(IDS, output_hidden_states=True)
    assert len(out.hidden_states) == layers + 1
    head = model.get_output_embeddings()(out.hidden_states[-1])
    cap = getattr(model.lm.config, "final_logit_softcapping", None)
    head = head if cap is None else torch.tanh(head / cap) * cap
    torch.testing.assert_close(head, plain[..., : head.shape[-1]])
    embeds = model.get_input_embeddings()(IDS)
    torch.testing.assert_close(model(inputs_embeds=embeds).logits, plain)
    both = model(IDS, clean_ids=TRUE).logits
    torch.testing.assert_close(model(inputs_embeds=embeds, clean_ids=TRUE).logits, both)
    with pytest.raises(ValueError, match="Give input_ids or inputs_embeds, and not both"):
        model(IDS, inputs_embeds=embeds)
    with pytest.raises(ValueError, match="Attention 'sdpa' does not say its weights"):
        model(IDS, output_attentions=True)
    model.set_attn_implementation("eager")
    weights = model(IDS, output_attentions=True).attentions
    assert len(weights) == layers
    torch.testing.assert_close(weights[0].sum(-1), torch.ones(2, 4, 8))
    # A block sees itself whole, and nothing behind it.
    assert weights[0][:, :, 0, 3].min() > 0 and not weights[0][:, :, :4, 4:].any()


def test_a_stock_loading_argument_reaches_the_language_model(tmp_path):
    block_model().save_pretrained(tmp_path)
    half = BlockDiffusionLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert half.dtype == half.lm.dtype == torch.bfloat16 and half(IDS).logits.dtype == half.dtype
    eager = BlockDiffusionLM.from_pretrained(tmp_path, attn_implementation="eager")
    assert eager.lm.config._attn_implementation == "eager"
    torch.testing.assert_close(eager.eval()(IDS).logits, block_model()(IDS).logits)
    ours = GenerationConfig(max_new_tokens=3, eos_token_id=[4, 5])
    given = BlockDiffusionLM.from_pretrained(tmp_path, generation_config=ours)
    assert given.generate(TRUE[:, :2]).shape == (2, 5)


def test_gradients_are_those_of_checkpointed_activations():
    model, _ = to_block_diffusion(causal(), mask_token_id=MASK)
    gradients = []
    for checkpointed in (False, True):
        if checkpointed:
            model.activation_checkpointing_enable()
        model.zero_grad()
        model.train()(IDS, labels=LABELS).loss.backward()
        gradients.append(model.get_input_embeddings().weight.grad.clone())
    assert all(layer.gradient_checkpointing for layer in model.lm.model.layers)
    torch.testing.assert_close(*gradients)


def test_tools_for_causal_models_take_its_causal_reading():
    """`model.lm` is a causal language model with the same weights."""
    model = block_model()
    theirs = causal()(TRUE).logits
    assert torch.equal(model.lm(TRUE).logits, theirs)
    assert torch.equal(model(TRUE, causal=True).logits[:, 1:], theirs[:, :-1])
