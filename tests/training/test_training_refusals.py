"""What the trainers refuse, each in one clear sentence."""

from __future__ import annotations

import pytest
import torch
from datasets import IterableDataset
from peft import LoraConfig
from training_runs import distilling, matching, probe, rows, teaching, tiny

from hf_ddistill.denoisers import NetworkDenoiser
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.models import GiddConfig, GiddLM, as_denoiser
from hf_ddistill.processes import Absorbing, Uniform
from hf_ddistill.schedules import Cosine


def lora(**settings):
    return LoraConfig(target_modules=["qkv"], **settings)


def with_diffusion(diffusion, **settings):
    model = tiny(**settings)
    as_denoiser(model, diffusion)
    return model


def nothing():
    yield from ()


def sgd():
    return torch.optim.SGD(tiny().parameters())


def unknown():
    return NetworkDenoiser(lambda x_t, t: torch.zeros(*x_t.shape, 3), Diffusion(Absorbing(3)))


def gidd():
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    return GiddLM(GiddConfig(vocab_size=3, intermediate_size=8, mask_token_id=2, **sizes))


DISTILLATION = {
    "vocabulary": (
        lambda: {"model": with_diffusion(Diffusion(Uniform(5)), vocab_size=5)},
        r"The student has vocab_size=5 and the teacher 3: they must share one vocabulary\.",
    ),
    "vocabulary without an entry": (lambda: {"model": tiny(vocab_size=4)}, "vocab_size=3, .* 4: "),
    "process": (
        lambda: {"model": with_diffusion(Diffusion(Uniform(3)))},
        "set up for .*uniform.* and the teacher for .*absorbing.*: they must share one process",
    ),
    "schedule": (
        lambda: {"model": with_diffusion(Diffusion(Absorbing(3), Cosine()))},
        "set up for .*cosine.* and the teacher for .*log_linear.*: they must share one process",
    ),
    "no teacher": (
        lambda: {"model": tiny(), "teacher": None},
        r"Distillation needs a teacher: pass teacher=, or peft_config= to use the base\.",
    ),
    "no model at all": (lambda: {"teacher": None}, "the teacher must be a model, .* got NoneType"),
    "unknown objective": (
        lambda: {"objective": "edc"},
        r"Unknown objective 'edc' \(did you mean 'ecd'\?\); there are: .*ecd.*nelbo",
    ),
    "unknown setting": (
        lambda: {"objective": {"type": "ecd", "time": "grid_times"}},
        "ECD has no setting 'time'; it has: .*times",
    ),
    "no steps": (lambda: {"student_steps": 0}, "student_steps must be at least 1, got 0"),
    "rounds in words": (lambda: {"rounds": "two"}, "rounds of .* must be an integer, got 'two'"),
    "half a round": (lambda: {"rounds": 1.5}, "rounds of .* must be an integer, got 1.5"),
    "packing in words": (
        lambda: {"packing": "no"},
        "packing of .* true or false or None, got 'no'",
    ),
    "float16 of a CPU": (lambda: {"fp16": True}, "fp16=True is not used .* take bf16=True"),
    "no rounds": (lambda: {"rounds": 0}, "rounds must be at least 1, got 0"),
    "decay": (lambda: {"ema_decay": 1.0}, r"ema_decay must lie in \[0, 1\), got 1.0"),
    "mean of Adam": (
        lambda: {"auxiliary_beta1": 1.0},
        r"beta1 must lie in \[0, 1\), got 1",
    ),
    "collapse": (lambda: {"collapse_share": -1}, r"collapse_share must lie in \[0, 1\), got -1"),
    "warm-up": (lambda: {"auxiliary_warmup_steps": -1}, "warmup_steps must be at least 0, got -1"),
    "updates": (lambda: {"auxiliary_updates": 0}, "auxiliary_updates must be at least 1, got 0"),
    "rate": (lambda: {"auxiliary_learning_rate": 0.0}, "learning_rate must be above 0, got 0.0"),
    "student that waits for ever": (
        lambda: {"auxiliary_warmup_steps": 2, "auxiliary_updates": 2, "max_steps": 3},
        "its first update is optimizer step 4, and max_steps is 3",
    ),
    "auxiliary and an optimizer": (
        lambda: {"objective": matching(), "optimizers": (sgd(), None)},
        "trains an auxiliary beside the student, which does not go with an optimizer that is given",
    ),
    "auxiliary of a function": (
        lambda: {"objective": matching(), "teacher": unknown(), "model": tiny()},
        "the teacher must be a model, or a denoiser of one .* got function",
    ),
    "width": (lambda: {"noise_dim": -1}, "noise_dim must be at least 0, got -1"),
    "spread": (lambda: {"noise_std": 0.0}, "noise_std must be above 0, got 0.0"),
    "noise of a model without": (
        lambda: {"noise_dim": 4, "model": tiny(1)},
        "noise_dim=4 was asked for, but the student has noise_dim=0; leave out",
    ),
    "noise of another width": (
        lambda: {"noise_dim": 4, "model": tiny(1, noise_dim=2)},
        "noise_dim=4 was asked for, but the student has noise_dim=2; leave out",
    ),
    "noise of a teacher of another width": (
        lambda: {"noise_dim": 4, "teacher": tiny(noise_dim=2)},
        "noise_dim=4 was asked for, but the student has noise_dim=2; leave out",
    ),
    "noise of another network": (
        lambda: {"noise_dim": 4, "teacher": gidd()},
        "noise_dim=4 was asked for, but GiddLM takes no noise; a DDiT or a masked",
    ),
    "adapters that train the base's biases": (
        lambda: {"teacher": None, "model": tiny(1), "peft_config": lora(bias="all")},
        "bias='all' of the adapters changes their base, which is the teacher",
    ),
    "adapters that start by changing the base": (
        lambda: {"teacher": None, "model": tiny(1), "peft_config": lora(init_lora_weights="olora")},
        "init_lora_weights='olora' of the adapters changes their base, which is the teacher",
    ),
    "pickles": (lambda: {"hub_strategy": "checkpoint"}, "'checkpoint' would push pickles"),
}

TEACHING = {
    "peer": (
        lambda: {"objective": "ecd"},
        "'ecd' needs teacher, which DiscreteDiffusionTrainer does not have",
    ),
    "no process": (lambda: {"model": tiny(mask_token_id=None)}, "says neither in config.discrete_"),
    "empty": (lambda: {"data": []}, "The data set is empty; at least one row is needed"),
    "empty stream": (
        lambda: {"data": IterableDataset.from_generator(nothing)},
        "The data set is empty; at least one row is needed",
    ),
    "empty evaluation": (lambda: {"eval_dataset": []}, "The data set is empty"),
    "columns": (
        lambda: {"data": [{"pixels": [0, 1], "label": 3}]},
        "needs a column 'input_ids' or 'text', got: label, pixels",
    ),
    "tensors": (lambda: {"data": torch.zeros(4, 64)}, "is a mapping with .* got .*Tensor"),
    "text": (lambda: {"data": [{"text": "a"}]}, r"Text needs a tokenizer \(processing_class=\)"),
    "length": (lambda: {"max_length": 0}, "max_length must be at least 1, got 0"),
    "samples": (lambda: {"num_eval_samples": -1}, "num_eval_samples must be at least 0, got -1"),
    "calls": (lambda: {"sample_steps": 0}, "sample_steps must be at least 1, got 0"),
}


@pytest.mark.parametrize(("settings", "message"), DISTILLATION.values(), ids=DISTILLATION.keys())
def test_distillation_that_cannot_be_is_refused(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message) as refusal:
        distilling(tmp_path, **settings())
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(("settings", "message"), TEACHING.values(), ids=TEACHING.keys())
def test_training_that_cannot_be_is_refused(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message) as refusal:
        teaching(tmp_path, **settings())
    assert "\n" not in str(refusal.value)


def test_one_object_cannot_be_student_and_teacher(tmp_path):
    model = tiny()
    with pytest.raises(ValueError, match="Student and teacher are one object"):
        distilling(tmp_path, model, model=model)
    assert all(p.requires_grad for p in model.parameters())


def test_logits_that_are_not_numbers_stop_the_run(tmp_path):
    trainer = teaching(tmp_path)
    torch.nn.init.constant_(trainer.model.lm_head.bias, float("nan"))
    with pytest.raises(ValueError, match="DDiT.* gives logits that are NaN or infinite"):
        trainer.train()


def test_loss_that_is_not_a_number_stops_the_run_and_names_the_step(tmp_path):
    changed = type(
        "_Nan",
        (type(probe()),),
        {"__call__": lambda self, step: {"student": torch.tensor(torch.nan, requires_grad=True)}},
    )
    with pytest.raises(ValueError, match="is nan at step 0; lower the learning rate"):
        teaching(tmp_path, objective=changed()).train()


def test_rows_of_unequal_length_need_a_pad_token(tmp_path):
    data = [{"input_ids": [0, 1, 0]}, {"input_ids": [0, 1]}]
    model = tiny(token_shape=None, position_embedding="rotary")
    with pytest.raises(ValueError, match="Rows have from 2 to 3 tokens and there is no pad token"):
        teaching(tmp_path, model, data).train()


def test_labels_for_a_model_without_classes_are_refused(tmp_path):
    with pytest.raises(ValueError, match="num_classes=0 and no input for them"):
        teaching(tmp_path, data=rows(8, labels=True)).train()
