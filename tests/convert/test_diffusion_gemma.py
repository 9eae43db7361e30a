"""DiffusionGemma as a teacher: its own numbers, and the reading of them."""

import math

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM, DiffusionGemmaForBlockDiffusion

from hf_ddistill import as_denoiser
from hf_ddistill.convert import DiffusionGemma, recognise

CANVAS = torch.randint(3, 17, (2, 8), generator=torch.Generator().manual_seed(1))
PROMPT = torch.randint(3, 17, (2, 3), generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gemma")
    DiffusionGemma.example(folder)
    return folder


@pytest.mark.parametrize("prompt", [None, PROMPT])
def test_its_numbers_are_not_those_of_its_own_class(prompt, source):
    assert recognise(str(source)) is DiffusionGemma
    model, tokenizer = DiffusionGemma().read(str(source))
    theirs = DiffusionGemmaForBlockDiffusion.from_pretrained(source).eval()
    before = torch.full((2, 1), 2) if prompt is None else prompt
    with torch.no_grad():
        expected = theirs(input_ids=before, decoder_input_ids=CANVAS).logits
        found = model(input_ids=CANVAS, prompt_ids=prompt).logits
        some = model(input_ids=CANVAS, prompt_ids=prompt, at=torch.tensor([3, 9])).logits
    assert torch.equal(found, expected) and tokenizer is None
    torch.testing.assert_close(some, expected.flatten(0, 1)[[3, 9]])


def test_padding_of_the_prompt_changes_the_canvas(source):
    model, _ = DiffusionGemma().read(str(source))
    padded = torch.cat([torch.zeros(2, 2, dtype=torch.long), PROMPT], 1)
    mask = (torch.arange(5) > 1).long().expand(2, 5)
    with torch.no_grad():
        ids = {"prompt_ids": padded, "prompt_mask": mask}
        whole = model(input_ids=CANVAS, **ids).logits
        other = model(input_ids=CANVAS, **ids | {"prompt_ids": padded + (1 - mask)}).logits
    torch.testing.assert_close(whole, other)


def test_what_is_saved_needs_another_word(source, tmp_path):
    model, _ = DiffusionGemma(prediction="mean_loo").read(str(source))
    model.save_pretrained(tmp_path / "ours")
    again = AutoModelForMaskedLM.from_pretrained(tmp_path / "ours").eval()
    with torch.no_grad():
        assert torch.equal(again(input_ids=CANVAS).logits, model(input_ids=CANVAS).logits)
    denoiser = as_denoiser(again)
    assert denoiser.diffusion.process.to_config() == {"type": "uniform", "vocab_size": 20}
    assert again.config.max_position_embeddings == 8
    DiffusionGemma().write(again, tmp_path / "back")
    theirs, back = (load_file(f / "model.safetensors") for f in (source, tmp_path / "back"))
    assert theirs.keys() == back.keys()
    assert all(torch.equal(theirs[key], back[key]) for key in theirs)


@pytest.mark.parametrize("prediction", ["mean", "mean_loo"])
def test_the_observed_token_counts_as_it_does_not_in_trl(prediction, source):
    model, _ = DiffusionGemma(prediction=prediction).read(str(source))
    t = torch.tensor([0.3, 0.8])
    denoiser = as_denoiser(model)
    with torch.no_grad():
        logits = model(input_ids=CANVAS).logits.double()
        found = denoiser(CANVAS, t).log_conditional
    if prediction == "mean_loo":
        alpha = denoiser.diffusion.schedule.alpha(t)
        more = torch.tensor([math.log(1 + 20 * a / (1 - a)) for a in alpha.tolist()])
        observed = torch.nn.functional.one_hot(CANVAS, 20)
        logits = logits + observed * more.double()[:, None, None]
    expected = logits.log_softmax(-1)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)


def test_another_prediction_is_taken():
    with pytest.raises(ValueError, match="mean, mean_loo, got 'score'"):
        DiffusionGemma(prediction="score")
