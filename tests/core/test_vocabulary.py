"""Process, model and tokenizer speak of the same tokens, the mask above all, or it is refused."""

from __future__ import annotations

import pytest
import torch
from pipeline_cases import letters, made, piped, seeded
from training_runs import distilling
from transformers import BertConfig, BertForMaskedLM

from hf_ddistill import DiscreteDiffusionConfig, DiscreteDiffusionTrainer
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.models import DDiTConfig, DDiTForDiscreteDiffusion, as_denoiser, check_same_mask
from hf_ddistill.processes import Absorbing, General, Hybrid, Ordinal, Uniform

SIZES = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}


def bert(vocab_size=6, **settings):
    sizes = {"max_position_embeddings": 7, "intermediate_size": 8, **SIZES}
    return BertForMaskedLM(BertConfig(vocab_size=vocab_size, **sizes, **settings))


def test_a_process_with_another_mask_than_the_models_is_refused():
    model = DDiTForDiscreteDiffusion(DDiTConfig(vocab_size=6, mask_token_id=2, **SIZES))
    with pytest.raises(ValueError, match="one mask.*the process 5, the model's config 2"):
        as_denoiser(model, Diffusion(Absorbing(6)))
    with pytest.raises(ValueError, match="one mask.*the process 0, the model's config 2"):
        as_denoiser(model, Diffusion(Hybrid(6, mask_token_id=0)))
    as_denoiser(model, Diffusion(Uniform(6)))  # which has none


def test_a_tokenizer_with_another_mask_is_refused_wherever_it_is_known():
    message = r"one mask.*the process 4,.* the tokenizer \(its '_'\) 5"
    model = made(Absorbing(6, mask_token_id=4))
    with pytest.raises(ValueError, match=message):
        as_denoiser(model, tokenizer=letters())
    with pytest.raises(ValueError, match=message):
        piped(model, tokenizer=letters())
    pipe = piped(model)
    pipe.register_modules(tokenizer=letters())
    with pytest.raises(ValueError, match=message):
        pipe()


def test_what_names_no_mask_agrees_with_the_others():
    config = DDiTConfig(vocab_size=6, **SIZES)
    check_same_mask(Diffusion(Absorbing(6)), config)
    tokenizer = letters()
    tokenizer.mask_token = None
    check_same_mask(Diffusion(Absorbing(6, mask_token_id=3)), config, tokenizer)
    check_same_mask(Diffusion(Uniform(6)), config, letters())


def test_a_masked_model_masks_with_the_token_of_its_tokenizer():
    model = bert()
    with pytest.raises(ValueError, match="mask_token_id"):
        as_denoiser(model)
    denoiser = as_denoiser(model, tokenizer=letters())
    assert denoiser.diffusion.process == Absorbing(6, mask_token_id=5)
    assert model.config.mask_token_id == 5, "the resolved mask is not saved with the model"


def test_the_resolved_mask_is_entered_in_the_models_config():
    model = DDiTForDiscreteDiffusion(DDiTConfig(vocab_size=6, **SIZES))
    as_denoiser(model, Diffusion(Absorbing(6, mask_token_id=1)))
    assert model.config.mask_token_id == 1


BROKEN = {
    "a list": ([1], "must be a mapping.*got"),
    "a word": ("absorbing", "must be a mapping"),
    "no process": ({"schedule": "log_linear"}, "cannot be read: .*needs a 'process'"),
    "no type": ({"process": {"vocab_size": 6}}, "cannot be read: .*with a 'type'"),
    "unknown": ({"process": {"type": "absorbin"}}, "cannot be read: .*did you mean 'absorbing'"),
    "number": ({"process": 3}, "cannot be read: .*by its name"),
    "size": ({"process": {"type": "absorbing", "vocab_size": "6"}}, "cannot be read: "),
    "no number": (
        {"process": {"type": "hybrid", "vocab_size": 6, "uniform": "a"}},
        "cannot be read: ",
    ),
    "schedule": (
        {"process": {"type": "uniform", "vocab_size": 6}, "schedule": {"power": 2}},
        "cannot be read: .*with a 'type'",
    ),
    "parameterization": (
        {"process": {"type": "uniform", "vocab_size": 6}, "parameterization": 7},
        "cannot be read: .*by its name",
    ),
    "vocabulary": ({"process": {"type": "uniform", "vocab_size": 9}}, "vocab_size=9.* 6: both"),
    "mask": ({"process": {"type": "absorbing", "vocab_size": 6, "mask_token_id": 6}}, "outside"),
}


@pytest.mark.parametrize(("entry", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_an_entry_that_was_broken_by_hand_is_one_sentence(entry, message):
    model = bert()
    model.config.discrete_diffusion = entry
    with pytest.raises(ValueError, match=message) as caught:
        as_denoiser(model)
    # Under pytest the core's annotations speak first, in many lines.
    assert "\n" not in str(caught.value) or "Type-check error" in str(caught.value)


def test_weights_that_are_nan_do_not_sample_other_tokens():
    model = made()
    piped(model)(num_inference_steps=1)
    with torch.no_grad():  # the queries: the attention kernel of the CPU makes 0 of such scores
        model.model.layers[0].attn.qkv.weight[:8].fill_(float("nan"))
    assert model(torch.full((1, 8), 5)).logits.isfinite().all(), "no longer hidden: mend this test"
    with pytest.raises(ValueError, match=r"NaN or infinite: model\.layers\.0\.attn\.qkv\.weight"):
        piped(model)


@pytest.mark.parametrize(
    "process",
    [Absorbing(6), Absorbing(6, mask_token_id=2), Hybrid(6), Uniform(6), Ordinal(6)],
    ids=str,
)
def test_after_resizing_model_config_and_process_agree(process):
    model = made(process)
    if process.id == "absorbing" and process.mask_token_id == 5:
        # By hand, and before anything has resolved it: the mask is the last token.
        model.config.discrete_diffusion["process"] = {"type": "absorbing", "vocab_size": 6}
    before = model(torch.tensor([[0, 1, 2]])).logits
    model.resize_token_embeddings(9)
    resized = as_denoiser(model).diffusion.process
    assert type(resized) is type(process) and resized.vocab_size == model.config.vocab_size == 9
    assert resized.mask_token_id == process.mask_token_id
    torch.testing.assert_close(model(torch.tensor([[0, 1, 2]])).logits[..., :6], before)
    out = piped(model)(batch_size=50, num_inference_steps=2, generator=seeded())
    assert not set(resized.noise_tokens) & set(out.sequences.flatten().tolist())
    model.resize_token_embeddings(pad_to_multiple_of=8)
    assert as_denoiser(model).diffusion.vocab_size == model.config.vocab_size == 16


def test_a_vocabulary_that_no_process_is_known_for_is_refused_before_anything_changes():
    model = made(Absorbing(6))
    with pytest.raises(ValueError, match="the mask, token 5, must stay one of the 4 tokens"):
        model.resize_token_embeddings(4)
    ladder = torch.eye(6).roll(1, 0) - torch.eye(6)
    other = made(General(ladder.tolist()))
    with pytest.raises(ValueError, match="given by matrices over 6 tokens"):
        other.resize_token_embeddings(7)
    for each in (model, other):
        assert each.config.vocab_size == 6 and each.get_input_embeddings().num_embeddings == 6


def test_trainers_mask_with_the_token_of_the_tokenizer_and_refuse_another(tmp_path):
    data = [{"input_ids": [0, 1, 2, 3]}] * 4
    settings = {"data": data} | {"processing_class": letters(), "max_steps": 1, "report_to": "none"}
    trainer = distilling(tmp_path / "a", bert(), **settings)
    assert trainer.diffusion.process == trainer.teacher.diffusion.process == Absorbing(6, 5)
    with pytest.raises(ValueError, match=r"one mask.*the process 4.*the tokenizer \(its '_'\) 5"):
        distilling(tmp_path / "b", made(Absorbing(6, mask_token_id=4)), **settings)
    args = DiscreteDiffusionConfig(str(tmp_path / "c"), max_steps=1, use_cpu=True)
    model = made(Absorbing(6, mask_token_id=4))
    with pytest.raises(ValueError, match="one mask"):
        DiscreteDiffusionTrainer(model, args=args, train_dataset=data, processing_class=letters())
