"""Students that cost less than their teacher: fewer layers, one call for the two of guidance."""

from __future__ import annotations

import sys

import pytest
import torch
from peft import LoraConfig, get_peft_model
from training_runs import differing, distilling, rows, tiny, weights
from transformers import (
    AutoModelForMaskedLM,
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedConfig,
    TorchAoConfig,
)

from hf_ddistill.convert import to_block_diffusion
from hf_ddistill.denoisers import Guided
from hf_ddistill.hub import load_model
from hf_ddistill.models import (
    NoisedMaskedLM,
    as_denoiser,
    keep_layers,
    round_weights,
    rounding,
    unrounded,
)

BERT = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 9}


def test_layers_that_are_kept_are_others_or_do_not_open_again(tmp_path):
    teacher = tiny(num_hidden_layers=5)
    before = weights(teacher)
    trainer = distilling(tmp_path, teacher, student_layers=3, learning_rate=1e-9, ema_decay=0.0)
    kept = weights(trainer.model)
    for number, old in enumerate((0, 2, 4)):
        for name, value in kept.items():
            start = f"model.layers.{number}."
            if name.startswith(start):
                assert torch.equal(value, before[f"model.layers.{old}.{name[len(start) :]}"])
    assert trainer.model.config.num_hidden_layers == 3 and not differing(weights(teacher), before)
    trainer.train()
    trainer.save_model()
    opened = AutoModelForMaskedLM.from_pretrained(tmp_path)
    assert not differing(weights(opened), weights(trainer.model))


def test_layers_of_a_masked_language_model_cannot_be_left_out(tmp_path):
    torch.manual_seed(0)
    bert = BertForMaskedLM(BertConfig(num_hidden_layers=4, **BERT)).eval()
    x = torch.arange(8)[None]
    states = bert(x, output_hidden_states=True).hidden_states
    first, last = bert.bert.encoder.layer[0], bert.bert.encoder.layer[3]
    smaller = keep_layers(bert, 2)
    found = smaller(x, output_hidden_states=True).hidden_states
    assert torch.equal(found[1], states[1]) and len(found) == 3
    assert [*smaller.bert.encoder.layer] == [first, last]
    for count, message in ((0, "keep 1 to 2 layers, got 0"), (3, "keep 1 to 2 layers, got 3")):
        with pytest.raises(ValueError, match=message):
            keep_layers(smaller, count)
    with pytest.raises(ValueError, match="student_layers=1 is of a copy of the teacher"):
        distilling(tmp_path, model=tiny(), student_layers=1)
    lone = torch.nn.Linear(2, 2)
    lone.config = PreTrainedConfig(num_hidden_layers=1)
    with pytest.raises(ValueError, match="Linear has 0 lists of num_hidden_layers=1 layers"):
        keep_layers(lone, 1)


def test_rounded_student_is_not_what_opens_in_as_many_bits(tmp_path):
    """Trained through the rounding; what is saved and opened in its bits says the same."""
    pytest.importorskip("torchao", reason="the extra `quantized` is not installed")
    teacher = tiny(hidden_size=32)
    for bits in (8, 4):
        folder = tmp_path / str(bits)
        trainer = distilling(folder, teacher, student_bits=bits, learning_rate=0.01, ema_decay=0.0)
        x = torch.arange(64)[None] % 2
        plain, rounded = (model(x).logits for model in (teacher, trainer.model.eval()))
        apart = float((plain - rounded).detach().abs().max())
        assert (0 < apart < 0.1) if bits == 8 else (0.01 < apart < 2)
        before = weights(trainer.model)
        trainer.train()
        assert any("attn.qkv" in name for name in differing(weights(trainer.model), before))
        trainer.save_model()
        whole = unrounded(trainer.model, bits)
        how = TorchAoConfig(rounding(bits), modules_to_not_convert=whole)
        assert whole == []
        opened = AutoModelForMaskedLM.from_pretrained(folder, quantization_config=how)
        again = AutoModelForMaskedLM.from_pretrained(folder)
        assert not differing(weights(again), weights(trainer.model))
        torch.testing.assert_close(opened(x).logits, trainer.model.eval()(x).logits)


@pytest.mark.parametrize("bits", [8, 4])
def test_what_stays_whole_is_trained_rounded_or_cannot_be_opened(tmp_path, bits):
    """A head that is tied to the embedding, and at 4 bits layers of other numbers of inputs."""
    pytest.importorskip("torchao", reason="the extra `quantized` is not installed")
    torch.manual_seed(0)
    bert = BertForMaskedLM(
        BertConfig(num_hidden_layers=1, **BERT | {"hidden_size": 32, "intermediate_size": 48})
    )
    bert.config.mask_token_id = 4
    bert.save_pretrained(tmp_path / "bert")
    x = torch.arange(8)[None]
    before = bert.eval()(x).logits
    rounded = round_weights(bert, bits)
    whole, head = unrounded(rounded, bits), "cls.predictions.decoder"
    narrow = ["bert.encoder.layer.0.output.dense"] if bits == 4 else []
    assert {*whole} == {head, *narrow}
    how = TorchAoConfig(rounding(bits), modules_to_not_convert=whole)
    opened = AutoModelForMaskedLM.from_pretrained(tmp_path / "bert", quantization_config=how)
    torch.testing.assert_close(opened(x).logits, rounded(x).logits)
    assert not torch.equal(rounded(x).logits, before)
    if bits == 4:
        with pytest.raises(ValueError, match="4 bits would round none: take 8"):
            round_weights(torch.nn.Linear(16, 4), 4)


def test_rounding_without_its_extra_fails_late(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao", None)
    with pytest.raises(ValueError, match=r"pip install 'hf_ddistill\[quantized\]'"):
        distilling(tmp_path, student_bits=4)
    with pytest.raises(ValueError, match="rounded to 8 or to 4 bits, got 3"):
        distilling(tmp_path, student_bits=3)
    with pytest.raises(ValueError, match="student_bits=4 is of a copy of the teacher"):
        distilling(tmp_path, model=tiny(), student_bits=4)


@pytest.mark.parametrize("adapted", [False, True], ids=["weights", "adapters"])
def test_student_of_a_guided_teacher_needs_two_calls_as_well(adapted, tmp_path):
    """One call of it is nearer to the guided prediction than one of its teacher; the adapters'
    base, which is the teacher, is one copy of the weights."""
    teacher = tiny(1, num_classes=10)
    with torch.no_grad():  # at first its classes say nothing
        for weight in teacher.parameters():
            weight.add_(0.3 * torch.randn(weight.shape))
    settings = {
        "objective": {"type": "sdtt", "substeps": 1, "divergence": "forward_kl"},
        "max_steps": 40,
        "learning_rate": 0.01,
        "ema_decay": 0.0,
    }
    if adapted:
        teacher = get_peft_model(teacher, LoraConfig(r=8, target_modules="all-linear"))
        settings["model"] = teacher
    guided = Guided(as_denoiser(teacher, adapters=False) if adapted else as_denoiser(teacher), 2.0)
    trainer = distilling(tmp_path, guided, rows(64, labels=True), **settings)
    seen = rows(16, labels=True)
    x_t, labels = torch.full((16, 64), 2), torch.tensor([row["class_labels"] for row in seen])
    x_t[:, ::2] = torch.tensor([row["input_ids"] for row in seen])[:, ::2]

    @torch.no_grad()
    def apart():
        p = guided(x_t, 0.5, class_labels=labels).log_conditional[:, 1::2]
        q = trainer.denoiser()(x_t, 0.5, class_labels=labels).log_conditional[:, 1::2]
        return float((p.exp() * (p - q)).sum(-1).mean()), p

    calls, (before, said) = [], apart()
    trainer.train()
    after, still = apart()
    torch.testing.assert_close(still, said)
    assert after < 0.5 * before
    trainer.denoiser().networks()[0].register_forward_hook(lambda *_: calls.append(1))
    trainer.denoiser()(x_t, 0.5, class_labels=labels)
    assert len(calls) == 1


def test_layers_of_a_model_around_another_cannot_be_left_out(tmp_path):
    torch.manual_seed(0)
    sizes = BERT | {"vocab_size": 20, "num_hidden_layers": 4, "max_position_embeddings": 64}
    lm = LlamaForCausalLM(LlamaConfig(**sizes, initializer_range=1.0))
    teacher, _ = to_block_diffusion(lm, mask_token_id=19, block_size=4)
    data = [{"input_ids": [(i + j) % 9 for j in range(8)]} for i in range(4)]
    trainer = distilling(tmp_path / "a", teacher, data, objective="bd3lm", student_layers=2)
    trainer.train()
    trainer.save_model()
    student, again = trainer.model.eval(), load_model(str(tmp_path / "a")).eval()
    assert student.num_parameters() == again.num_parameters() < teacher.num_parameters()
    x = torch.arange(8)[None]
    for cached in (True, False):  # a layer finds its keys and values by its number
        found, other = (
            each.generate(x, max_new_tokens=12, do_sample=False, use_cache=cached)
            for each in (student, again)
        )
        assert torch.equal(found, other)
    bert = BertForMaskedLM(BertConfig(**BERT, num_hidden_layers=3, mask_token_id=4))
    as_denoiser(bert)
    smaller = keep_layers(NoisedMaskedLM.of(bert, 3), 2).eval()
    smaller.save_pretrained(tmp_path / "b")
    noise = torch.randn(1, 8, 3)
    opened = load_model(str(tmp_path / "b")).eval()
    torch.testing.assert_close(opened(x, noise=noise).logits, smaller(x, noise=noise).logits)
