"""A masked language model with a noise input."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from cli_runs import run
from masked_lm_families import FAMILIES, masked_lm
from training_runs import differing, distilling, weights
from transformers import AutoModelForMaskedLM, BertConfig, BertForMaskedLM

from hf_ddistill.hub import load_pipeline
from hf_ddistill.models import NoisedMaskedLM, NoisedMaskedLMConfig, as_denoiser, window
from hf_ddistill.models.held import Held


def noised(family, folder):
    model, tokenizer = masked_lm(family, folder)
    as_denoiser(model, tokenizer=tokenizer)
    made = NoisedMaskedLM.of(copy.deepcopy(model), 3).eval()
    torch.nn.init.normal_(made.noise_proj.weight)
    return model, made, tokenizer


@pytest.mark.parametrize("family", FAMILIES)
def test_noise_reaches_masks_and_nothing_else_is_changed(family, tmp_path):
    model, made, tokenizer = noised(family, tmp_path)
    ids = torch.full((2, 7), tokenizer.mask_token_id)
    ids[:, 0], ids[:, -1] = model.config.held_tokens["begin"][0], model.config.held_tokens["end"][0]
    ids[1, 5:] = tokenizer.pad_token_id
    real = torch.ones_like(ids)
    real[1, 5:] = 0
    before = model(input_ids=ids, attention_mask=real).logits
    zero = made(input_ids=ids, attention_mask=real, noise=torch.zeros(2, 7, 3)).logits
    torch.testing.assert_close(zero, before)
    assert torch.equal(made(input_ids=ids, attention_mask=real).logits, before)
    noise = torch.randn(2, 7, 3)
    moved = made(input_ids=ids, attention_mask=real, noise=noise).logits
    assert ((moved - before).abs().amax(-1) > 1e-3)[real.bool()].all()
    # The noise of padding is not seen.
    behind = noise.clone()
    behind[1, 5:] = 9.0
    again = made(input_ids=ids, attention_mask=real, noise=behind).logits
    torch.testing.assert_close(again[real.bool()], moved[real.bool()])
    assert torch.equal(made(input_ids=ids, attention_mask=real).logits, before)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_opens_with_the_auto_class_and_no_remote_code(family, tmp_path):
    model, made, _ = noised(family, tmp_path)
    made.save_pretrained(tmp_path / "model")
    told = json.loads((tmp_path / "model" / "config.json").read_text())
    assert told["model_type"] == "noised_masked_lm" and "auto_map" not in told
    assert told["noise_dim"] == 3 and told["held_tokens"] == model.config.held_tokens
    opened, info = AutoModelForMaskedLM.from_pretrained(
        tmp_path / "model", output_loading_info=True
    )
    assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert type(opened) is NoisedMaskedLM and window(opened) == window(model)
    for key, weight in made.state_dict().items():
        assert torch.equal(opened.state_dict()[key], weight), key
    denoiser = as_denoiser(opened.eval())
    assert denoiser.latent.dim == 3 and Held.of(opened.config) == Held.of(model.config)
    tied = opened.get_output_embeddings()
    if model.config.tie_word_embeddings and tied is not None:
        assert tied.weight is opened.get_input_embeddings().weight


def test_training_moves_the_noise_input(tmp_path):
    model, tokenizer = masked_lm("albert", tmp_path)
    rows = [{"input_ids": tokenizer("acde")["input_ids"]}] * 8
    settings = {"noise_dim": 2, "noise_std": 0.5, "student_steps": 1, "max_steps": 3}
    settings |= {"objective": "law_matching", "processing_class": tokenizer}
    trainer = distilling(tmp_path / "run", model, rows, **settings)
    before = weights(trainer.model)
    spread = before["noise_proj.weight"].square().sum(1).mean()
    assert before["noise_proj.weight"].shape == (8, 2) and 0.1 < spread < 0.6
    assert differing(weights(model), {k[3:]: v for k, v in before.items() if k[:3] == "lm."}) == []
    trainer.train()
    assert "noise_proj.weight" in differing(before, weights(trainer.model))


@pytest.mark.slow
def test_one_call_learns_what_positions_share(tmp_path):
    """Of a a and b b, equally likely: without noise half of the samples of one call have two
    letters that differ, whatever the training."""
    teacher = _equal_letters()
    rows = [{"input_ids": [i % 2] * 2} for i in range(64)]
    settings = {"max_steps": 200, "learning_rate": 1e-3, "student_steps": 1, "noise_dim": 2}
    settings |= {"noise_std": 3.0, "per_device_train_batch_size": 64}
    # An auxiliary that lags behind lets the student fall on one of the two.
    settings |= {"auxiliary_learning_rate": 5e-3, "auxiliary_updates": 2}
    trainer = distilling(
        tmp_path / "run", teacher, rows, objective="law_matching", seed=1, **settings
    )
    before = _apart(trainer)
    trainer.train()
    trainer.save_model(tmp_path / "student")
    after, share = _apart(trainer), float(trainer.sample(2000, 1).float().mean())
    assert before > 0.25 and after < 0.15 and 0.3 < share < 0.7, (before, after, share)
    opened = load_pipeline(str(tmp_path / "student"))
    with trainer.averaged_weights():
        assert torch.equal(opened.model.noise_proj.weight, trainer.model.noise_proj.weight)


def _equal_letters():
    """A BERT that knows a a and b b."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    quiet = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = BertConfig(
        vocab_size=3, intermediate_size=32, max_position_embeddings=2, **sizes, **quiet
    )
    config.mask_token_id = 2
    model = BertForMaskedLM(config)
    states = torch.tensor([[2, 2], [2, 2], [0, 2], [1, 2], [2, 0], [2, 1]])
    truth = torch.tensor([[0, 0], [1, 1]]).repeat(3, 1)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(60):
        logits = model(input_ids=states).logits[..., :2]
        loss = torch.nn.functional.cross_entropy(logits[states == 2], truth[states == 2])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def _apart(trainer):
    """How often two letters of a sample of one call differ."""
    samples = trainer.sample(2000, 1)
    return float((samples[:, 0] != samples[:, 1]).float().mean())


def test_from_the_command_line(tmp_path, capsys):
    model, tokenizer = masked_lm("roberta", tmp_path)
    model.save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")
    file = tmp_path / "rows.jsonl"
    ids = tokenizer("acdef")["input_ids"]
    file.write_text("\n".join(json.dumps({"input_ids": ids[:-i] + ids[-1:]}) for i in (1, 2, 3)))
    named = ["--teacher", tmp_path / "teacher", "--data", file, "--output", tmp_path / "student"]
    how = ["--steps", 1, "--batch-size", 4, "--student-steps", 1, "--cpu", "--noise-dim", 4]
    assert run("distill", *named, *how, "--objective", "law_matching") == 0
    told = tmp_path / "samples.json"
    assert run("sample", tmp_path / "student", "--count", 4, "--length", 8, "--json", told) == 0
    found = json.loads(told.read_text())
    drawn = torch.tensor([row["tokens"] for row in found["rows"]])
    assert found["nfe"] == 1 and not torch.isin(drawn[:, 1:-1], torch.arange(5)).any()
    assert (drawn[:, 0] == 0).all() and (drawn[:, -1] == 2).all()


def test_what_cannot_be_is_refused(tmp_path):
    _, made, tokenizer = noised("bert", tmp_path)
    ids = torch.full((1, 4), tokenizer.mask_token_id)
    with pytest.raises(ValueError, match=r"noise has shape \(1, 4, 2\) and must be"):
        made(input_ids=ids, noise=torch.zeros(1, 4, 2))
    with pytest.raises(ValueError, match="noise_dim must be at least 1"):
        NoisedMaskedLMConfig(noise_dim=0)
    made.lm.bert.embeddings.forward = lambda *args, **kwargs: torch.zeros(1, 4, 5)
    with pytest.raises(ValueError, match="BertForMaskedLM takes no noise"):
        made(input_ids=ids, noise=torch.zeros(1, 4, 3))
