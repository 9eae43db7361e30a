"""Adapters on a BERT."""

from __future__ import annotations

import torch
from peft import LoraConfig
from training_runs import distilling
from transformers import AutoModelForMaskedLM, BertConfig, BertForMaskedLM

from hf_ddistill.models import as_denoiser

TOKENS = [{"input_ids": [5 + (i + j) % 18 for j in range(8)]} for i in range(8)]


BERT = {"vocab_size": 24, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def lora(**settings):
    return LoraConfig(
        **{"r": 2, "target_modules": "all-linear", "init_lora_weights": False} | settings
    )


def bert_folder(folder):
    """A masked LM that says neither which token is its mask nor what process it was trained for."""
    BertForMaskedLM(BertConfig(**BERT)).save_pretrained(folder)
    return str(folder)


def opened_bert(folder):
    model = AutoModelForMaskedLM.from_pretrained(folder)
    model.config.mask_token_id = 4  # that of the tokenizer that a BERT gets; no token of the rows
    return model


def saved(folder, base, data=TOKENS, **settings):
    """The trainer of a student that was saved in `folder`, with adapters that are not zero."""
    settings = {"max_steps": 1, "student_steps": 3, "peft_config": lora()} | settings
    trainer = distilling(folder, None, data, model=base, **settings)
    trainer.train()
    trainer.save_model()
    return trainer


def same_law(trainer, model, tokens=None):
    """Whether a model answers as the trainer's (averaged) one."""
    mask = trainer.diffusion.process.mask_token_id
    x_t = torch.tensor([row["input_ids"] for row in TOKENS]) if tokens is None else tokens
    x_t = torch.where(torch.rand(x_t.shape) < 0.5, mask, x_t)
    t = torch.full((len(x_t),), 0.5)
    with torch.no_grad(), trainer.averaged_weights():
        expected = trainer.denoiser(trainer.model.eval())(x_t, t).log_conditional
        base = trainer.teacher(x_t, t).log_conditional
        found = as_denoiser(model.eval())(x_t, t).log_conditional
    assert not torch.allclose(base, expected, atol=1e-3)
    return torch.allclose(found, expected, atol=1e-5)
