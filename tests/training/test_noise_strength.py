"""How strong a new noise input is, where nobody said: what it tells of a token, counted anew."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig
from training_runs import differing, distilling, rows, tiny, weights
from transformers import BertConfig, BertForMaskedLM

from hf_ddistill.cli.quickstart import shipped_teacher
from hf_ddistill.models import unwrapped
from hf_ddistill.models.noise_input import noise_input_of


def share_told(denoiser, size=64, draws=128, **condition):
    """Of a token's entropy, by another road than the trainer's: the mean KL of each noise's law to
    the mean of all, over its entropy, at masks alone."""
    masks = denoiser.diffusion.prior((draws, size))
    given = {name: torch.full((draws,), value) for name, value in condition.items()}
    with torch.no_grad():
        noise = denoiser.fresh_noise(masks, torch.Generator().manual_seed(7))
        p = denoiser(masks, 1.0, **noise, **given).log_conditional.double().exp()
    mean = p.mean(0)
    kl = torch.special.xlogy(p, p / mean).nan_to_num().sum(-1).mean(0)
    return float(kl.mean() / -torch.special.xlogy(mean, mean).sum(-1).mean())


def shipped(folder, **settings):
    """The trainer of a student of the package's digits teacher."""
    return distilling(folder, shipped_teacher(), rows(64, labels=True), noise_dim=8, **settings)


@pytest.mark.parametrize("seed", [0, 1])
def test_new_noise_input_tells_a_tenth_of_what_a_token_is(seed, tmp_path):
    trainer = shipped(tmp_path, seed=seed)
    student = trainer.denoiser(trainer.model.eval())
    told = [share_told(student, class_labels=label) for label in range(0, 10, 2)]
    assert sum(told) / 5 == pytest.approx(0.1, rel=0.35)  # four rows and 8 draws found it


def test_noise_that_the_old_default_whispers_to_large_embeddings_is_heard(tmp_path):
    """.3 beside embeddings of 9 is not seen, as it was on text."""
    teacher = knowing_bert()
    whispered = distilling(tmp_path, copy.deepcopy(teacher), letters(), noise_dim=4, noise_std=0.3)
    found = distilling(tmp_path, teacher, letters(), noise_dim=4)
    before, after = (
        share_told(trainer.denoiser(trainer.model.eval()), size=8) for trainer in (whispered, found)
    )
    assert before < 0.03 and after == pytest.approx(0.1, rel=0.5)


def letters():
    """Rows of a or b alone."""
    return [{"input_ids": [1 + i % 2] * 8} for i in range(64)]


def knowing_bert():
    """A masked language model with large embeddings, whose head says what stands around."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(vocab_size=6, intermediate_size=32, **sizes, max_position_embeddings=8)
    config.mask_token_id = 5
    model = BertForMaskedLM(config)
    with torch.no_grad():
        model.bert.embeddings.LayerNorm.weight.fill_(9.0)
        model.cls.predictions.transform.dense.weight.mul_(30)
        model.get_output_embeddings().weight.mul_(30)
    return model.eval()


def test_a_strength_that_is_given_is_the_strength(tmp_path, caplog):
    trainer = shipped(tmp_path, noise_std=2.0)
    spread = noise_input_of(trainer.model).weight.detach().square().sum(1).mean().sqrt()
    assert float(spread) == pytest.approx(2.0, rel=0.1) and "noise_std" not in caplog.text


def test_the_strength_and_what_it_tells_are_said_and_on_the_card(tmp_path, caplog):
    trainer = shipped(tmp_path, learning_rate=1e-4)
    (line,) = [each.getMessage() for each in caplog.records if "noise_std" in each.getMessage()]
    std = trainer.facts().training["noise input at first, standard deviation"]
    assert line.startswith(f"noise_std={std}: at which ") and "nats of a token" in line
    spread = noise_input_of(trainer.model).weight.detach().square().sum(1).mean().sqrt()
    assert float(spread) == pytest.approx(float(std), rel=0.1)


def test_the_search_leaves_nothing_behind(tmp_path):
    teacher = shipped_teacher()
    before = weights(teacher)
    trainer = distilling(tmp_path, teacher, rows(64, labels=True), noise_dim=8, seed=3)
    again = shipped(tmp_path, seed=3)
    assert trainer.model.training == again.model.training
    assert not differing(weights(trainer.model), weights(again.model))
    own = weights(trainer.model)
    own.pop("model.noise_proj.weight")
    assert not differing(own, before)


def test_a_teacher_that_says_the_same_whatever_it_reads_has_no_such_strength(tmp_path, caplog):
    teacher = tiny()
    with torch.no_grad():
        teacher.lm_head.weight.zero_()
    trainer = distilling(tmp_path, teacher, noise_dim=4, max_steps=2)
    assert "no strength tells 10%, and at this the untrained noise input tells 0 " in caplog.text
    assert weights(trainer.model)["model.noise_proj.weight"].isfinite().all()


def test_noise_of_an_adapted_student_is_as_strong(tmp_path):
    adapters = LoraConfig(r=2, target_modules=["qkv", "up"])
    whole, adapted = shipped(tmp_path), shipped(tmp_path, peft_config=adapters)
    (kept,) = [
        weight
        for name, weight in adapted.model.named_parameters()
        if "noise_proj" in name and weight.requires_grad
    ]
    expected = noise_input_of(whole.model).weight
    assert torch.allclose(kept, expected, rtol=1e-5)
    assert torch.allclose(unwrapped(adapted.model).model.noise_proj.weight, expected, rtol=1e-5)


def test_of_long_rows_a_part_is_looked_at(tmp_path):
    """All laws of 4 rows of 2,048 tokens over 50,000 would be gigabytes."""
    teacher = tiny(token_shape=None, position_embedding="rotary", max_position_embeddings=512)
    seen = []
    teacher.lm_head.register_forward_hook(lambda module, given, logits: seen.append(logits))
    data = [{"input_ids": [i % 2] * 512} for i in range(8)]
    distilling(tmp_path, teacher, data, noise_dim=4)
    assert seen and max(logits.numel() // logits.shape[-1] for logits in seen) <= 4 * 64


def test_of_rows_that_are_context_alone_nothing_is_told_and_no_strength_named(tmp_path, caplog):
    """It was said of nan nats, after eleven tries."""
    data = [{**row, "labels": list(row["input_ids"])} for row in rows(64, labels=True)]
    for row in data[::16]:
        row["labels"] = [-100] * 64
    trainer = distilling(tmp_path, shipped_teacher(), data, noise_dim=8)
    spread = noise_input_of(trainer.model).weight.detach().square().sum(1).mean().sqrt()
    assert "noise_std" not in caplog.text and float(spread) == pytest.approx(0.3, rel=0.1)
