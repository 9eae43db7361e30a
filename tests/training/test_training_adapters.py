"""A student of adapters whose frozen base, adapters off, is its own teacher."""

from __future__ import annotations

import copy

import torch
from peft import LoraConfig, PeftModel
from training_runs import MASK, differing, distilling, rows, tiny, weights

from hf_ddistill.diffusion import Diffusion
from hf_ddistill.models import as_denoiser
from hf_ddistill.processes import Absorbing

DROPOUT = {"dropout": 0.3, "attention_dropout": 0.3}
ADAPTERS = LoraConfig(r=2, target_modules=["qkv", "up"], lora_dropout=0.3)


def noised():
    x_0 = torch.tensor([row["input_ids"] for row in rows(4, held_out=True)])
    t = torch.tensor([0.2, 0.5, 0.8, 1.0])
    generator = torch.Generator().manual_seed(0)
    return Diffusion(Absorbing(3)).corrupt(x_0, t, generator), t


def adapted(folder, base=None, **settings):
    base = tiny(**DROPOUT) if base is None else base
    settings = {"max_steps": 4, "learning_rate": 0.05} | settings
    return distilling(folder, None, model=base, peft_config=ADAPTERS, **settings)


def test_base_with_its_adapters_off_is_the_teacher_bit_for_bit(tmp_path):
    base = tiny(**DROPOUT)
    alone = as_denoiser(copy.deepcopy(base).eval())
    x_t, t = noised()
    expected = alone(x_t, t).log_conditional
    before = weights(base)
    trainer = adapted(tmp_path, base)
    trainer.train()

    student = trainer.model.train()
    where = x_t == MASK
    for _ in range(2):
        assert torch.equal(trainer.teacher(x_t, t).log_conditional, expected)
        assert torch.equal(trainer.teacher.at(x_t, t, where).log_conditional[:, 0], expected[where])
        assert student.training and student.get_base_model().model.layers[0].dropout.training
        student.eval()
        assert not torch.equal(trainer.denoiser()(x_t, t).log_conditional, expected)
        student.train()
    after = {name.replace(".base_layer", ""): w for name, w in weights(base).items()}
    assert not differing({name: after[name] for name in before}, before)


def test_base_is_in_memory_once(tmp_path):
    base = tiny()
    size = sum(p.numel() for p in base.parameters())
    trainer = adapted(tmp_path, base)
    assert trainer.teacher_model is None and trainer.teacher.network.model is trainer.model
    held = {p.data_ptr(): p.numel() for p in trainer.model.parameters()}
    own = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    assert sum(held.values()) == size + own and own < size / 2
    assert set(trainer.average.mean) == {
        name for name, p in trainer.model.named_parameters() if p.requires_grad
    }


def test_saved_adapter_is_the_averaged_student_again(tmp_path):
    base = tiny()
    untouched = copy.deepcopy(base)
    trainer = adapted(tmp_path, base)
    trainer.train()
    trainer.save_model()
    assert {"adapter_model.safetensors", "README.md"} <= {p.name for p in tmp_path.iterdir()}
    assert not list(tmp_path.glob("*.bin"))
    loaded = PeftModel.from_pretrained(untouched, tmp_path).eval()
    x_t, t = noised()
    trainer.model.eval()
    raw = trainer.denoiser()(x_t, t).log_conditional
    with trainer.averaged_weights():
        mean = trainer.denoiser()(x_t, t).log_conditional
    assert torch.equal(as_denoiser(loaded)(x_t, t).log_conditional, mean)
    assert not torch.equal(raw, mean)


def test_adapters_are_of_the_seed_of_the_run_whatever_was_drawn_before(tmp_path):
    def drawn(seed):
        return weights(adapted(tmp_path, tiny(), seed=seed).model)

    one = drawn(1)
    torch.rand(7)
    assert not differing(one, drawn(1))
    assert differing(one, drawn(2))


def test_resumed_adapters_are_bit_equal(tmp_path):
    trainers = [adapted(tmp_path, save_strategy="steps", save_steps=2) for _ in range(2)]
    trainers[0].train()
    trainers[1].train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert not differing(weights(trainers[1].model), weights(trainers[0].model))
    assert not differing(trainers[1].average.mean, trainers[0].average.mean)
