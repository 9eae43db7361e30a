"""Copies of a teacher: a student with a new noise input, and the auxiliary."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from training_runs import MASK, differing, distilling, matching, rows, tiny, weights
from transformers import AutoModelForMaskedLM

from hf_ddistill.denoisers import Guided, NetworkDenoiser
from hf_ddistill.models import as_denoiser

ADAPTERS = LoraConfig(r=2, target_modules=["qkv", "up"])


def run(folder, *given, **settings):
    """A trainer with an auxiliary; `given` are a teacher and data."""
    common = {"objective": matching(), "collapse_share": 0, "learning_rate": 0.01}
    return distilling(folder, *given, **common | settings)


def test_student_is_the_teacher_with_a_new_input_of_the_set_spread(tmp_path):
    teacher = tiny(hidden_size=64).requires_grad_(False)
    trainer = run(tmp_path, teacher, noise_dim=16, noise_std=0.5)
    new = weights(trainer.model)
    projection = new.pop("model.noise_proj.weight")
    assert not differing(new, weights(teacher))
    assert projection.shape == (64, 16)
    assert float(projection.std()) == pytest.approx(0.5 / 4, rel=0.1)
    assert trainer.model.config.noise_dim == 16 and teacher.config.noise_dim == 0
    assert (
        teacher.model.noise_proj is None
        and trainer.auxiliaries.models["auxiliary"].model.noise_proj is None
    )
    assert all(p.requires_grad for p in trainer.model.parameters())
    assert trainer.denoiser().latent.dim == 16 and trainer.teacher.latent is None


def test_new_input_depends_on_the_seed_of_the_run_and_on_nothing_else(tmp_path):
    def projection(seed):
        return weights(run(tmp_path, seed=seed, noise_dim=4).model)["model.noise_proj.weight"]

    first = projection(1)
    torch.rand(3)
    assert torch.equal(projection(1), first) and not torch.equal(projection(2), first)


def test_noise_reaches_the_student_in_training_and_in_samples(tmp_path):
    teacher = tiny()
    with torch.no_grad():
        teacher.lm_head.weight.mul_(20)
    trainer = run(tmp_path, teacher, noise_dim=4, noise_std=3.0, student_steps=1)
    given = []

    def look(module, inputs, output):
        given.append(inputs[0])

    trainer.model.model.noise_proj.register_forward_hook(look)
    before = weights(trainer.model)["model.noise_proj.weight"]
    trainer.train()
    assert len(given) == 3 and all(noise.shape == (8, 64, 4) for noise in given)
    assert not torch.equal(given[0], given[1])
    assert not torch.equal(weights(trainer.model)["model.noise_proj.weight"], before)
    trainer.sample(4, 1)
    assert len(given) == 4
    assert float(torch.stack(given[:3]).std()) == pytest.approx(1, rel=0.1)


def test_saved_student_keeps_its_input(tmp_path):
    trainer = run(tmp_path, noise_dim=4, learning_rate=0.01)
    trainer.train()
    trainer.save_model()
    loaded = AutoModelForMaskedLM.from_pretrained(tmp_path)
    assert not differing(weights(loaded), trainer.average.mean)
    denoiser = as_denoiser(loaded)
    x_t = torch.full((2, 64), MASK)
    one, other = (denoiser(x_t, 1.0, **denoiser.fresh_noise(x_t)).log_conditional for _ in range(2))
    assert denoiser.latent.dim == 4 and not torch.equal(one, other)
    # A student that was made so is trained on as it is, with the width set or not.
    for settings in ({}, {"noise_dim": 4}):
        again = run(tmp_path / "again", tiny(), rows(16), model=loaded, **settings)
        assert again.model is loaded and not differing(weights(loaded), trainer.average.mean)


@pytest.mark.parametrize("teacher", ["adapted", "given"])
def test_auxiliary_beside_another_teacher_is_a_whole_model_that_starts_as_it(tmp_path, teacher):
    base = tiny()
    x_t, t = torch.tensor([row["input_ids"] for row in rows(2)]), torch.ones(2)
    x_t[:, ::2] = 2
    given = tiny(1)
    if teacher == "adapted":
        given = get_peft_model(given, ADAPTERS)
        torch.nn.init.normal_(given.get_base_model().model.layers[0].attn.qkv.lora_B.default.weight)
    expected = as_denoiser(copy.deepcopy(given).eval())(x_t, t)
    trainer = run(tmp_path, given, model=base, peft_config=ADAPTERS, max_steps=4)
    auxiliary = trainer.auxiliaries.models["auxiliary"]
    assert not any("lora" in name for name, _ in auxiliary.named_parameters())
    assert all(p.requires_grad for p in auxiliary.parameters())
    start = trainer.auxiliaries.networks["auxiliary"](x_t, t).log_conditional
    torch.testing.assert_close(start, expected.log_conditional, atol=1e-5, rtol=1e-5)

    before, student = weights(auxiliary), weights(trainer.model)
    trainer.train()
    assert set(differing(weights(auxiliary), before)) == set(before)
    changed_ones = differing(weights(trainer.model), student)
    assert changed_ones and all("lora" in name for name in changed_ones)
    after = trainer.teacher(x_t, t).log_conditional
    torch.testing.assert_close(after, expected.log_conditional, atol=1e-5, rtol=1e-5)


def test_auxiliary_of_a_guided_teacher_is_its_denoiser(tmp_path):
    teacher = as_denoiser(tiny(num_classes=10))
    guided = Guided(teacher, 1.0)
    trainer = run(tmp_path, guided, rows(64, labels=True), model=tiny(num_classes=10))
    auxiliary = trainer.auxiliaries.networks["auxiliary"]
    assert isinstance(auxiliary, NetworkDenoiser)
    assert not differing(weights(auxiliary.network.model), weights(teacher.network.model))
    trainer.train()
    assert differing(weights(auxiliary.network.model), weights(teacher.network.model))


def test_bfloat16_autocast_reaches_the_auxiliary_of_a_teacher_that_was_used_before(tmp_path):
    teacher, dtypes = tiny(), []
    for _ in range(2):
        trainer = run(tmp_path, teacher, bf16=True)
        head = trainer.auxiliaries.models["auxiliary"].lm_head
        head.register_forward_hook(lambda _, inputs, out: dtypes.append(out.dtype))
        trainer.train()
        assert all(
            p.dtype == torch.float32 for p in trainer.auxiliaries.models["auxiliary"].parameters()
        )
    assert set(dtypes) == {torch.bfloat16}
