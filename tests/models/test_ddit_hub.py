"""The DDiT network among Hugging Face tools: files, Auto classes, tied weights, adapters, code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ddit_cases import FULL, VOCAB, build, full_inputs, tokens
from safetensors import safe_open
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM

from hf_ddistill.models import DDiTConfig, DDiTForDiscreteDiffusion, DDiTModel


@pytest.mark.parametrize("positions", ["rotary", "learned", "rotary_learned"])
def test_save_and_load_change_no_bit(tmp_path: Path, positions: str) -> None:
    entry = {
        "process": {"type": "absorbing", "vocab_size": VOCAB},
        "schedule": {"type": "log_linear"},
        "parameterization": "subs",
    }
    model = build(position_embedding=positions, discrete_diffusion=entry, **FULL)
    expected = model(**full_inputs()).logits
    model.save_pretrained(tmp_path)
    loaded = AutoModelForMaskedLM.from_pretrained(tmp_path)
    assert type(loaded) is DDiTForDiscreteDiffusion
    assert torch.equal(loaded(**full_inputs()).logits, expected)
    assert loaded.config.discrete_diffusion == entry
    assert loaded.config.to_diff_dict() | {"_name_or_path": ""} == model.config.to_diff_dict() | {
        "_name_or_path": ""
    }
    backbone = AutoModel.from_pretrained(tmp_path)
    assert type(backbone) is DDiTModel
    hidden = backbone(**full_inputs()).last_hidden_state
    assert torch.equal(model.lm_head(hidden), expected)


def test_tied_weights_are_saved_once_and_stay_tied(tmp_path: Path) -> None:
    model = build(tie_word_embeddings=True)
    model.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert "lm_head.weight" not in file.keys()
    loaded = DDiTForDiscreteDiffusion.from_pretrained(tmp_path)
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    assert torch.equal(loaded(tokens()).logits, model(tokens()).logits)
    loaded.resize_token_embeddings(VOCAB + 2)
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight


@pytest.mark.parametrize("tied", [False, True])
def test_resized_vocabulary_keeps_the_old_logits(tied: bool) -> None:
    model = build(tie_word_embeddings=tied)
    before = model(tokens()).logits
    model.resize_token_embeddings(VOCAB + 3)
    after = model(tokens()).logits
    assert after.shape[-1] == model.config.vocab_size == VOCAB + 3
    assert model.lm_head.bias.shape == (VOCAB + 3,)
    torch.testing.assert_close(after[..., :VOCAB], before)


def test_unknown_argument_is_refused_but_a_saved_one_is_kept(tmp_path: Path) -> None:
    for unknown in ("hiden_size", "temperature"):
        with pytest.raises(ValueError, match=f"unknown argument.*{unknown}"):
            DDiTConfig(**{unknown: 1})
    config = DDiTConfig(attn_implementation="eager", num_labels=3, torch_dtype="float32")
    config.note = "added by another tool"
    config.save_pretrained(tmp_path)
    loaded, unused = AutoConfig.from_pretrained(
        tmp_path, noise_dim=8, stray=1, return_unused_kwargs=True
    )
    assert (loaded.note, loaded.noise_dim) == (config.note, 8)
    assert unused == {"stray": 1}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 30}, "multiple of num_attention_heads"),
        ({"position_embedding": "alibi"}, "must be one of"),
        ({"noise_dim": -1}, "noise_dim=-1"),
        ({"token_shape": [2, 2, 2]}, "multiple of 6"),
        ({"token_shape": [4, 0]}, "positive sizes"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DDiTConfig(**changes)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # from peft
def test_disabled_lora_is_the_base_model() -> None:
    peft = pytest.importorskip("peft")
    model = build(**FULL)
    base = model(**full_inputs()).logits
    adapted = peft.get_peft_model(
        model, peft.LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
    ).eval()
    adapted_names = {name for name, _ in adapted.named_parameters() if "lora_A" in name}
    assert any("attn.qkv" in name for name in adapted_names)
    assert not any("lm_head" in name for name in adapted_names)
    assert not torch.allclose(adapted(**full_inputs()).logits, base, atol=1e-3)
    with adapted.disable_adapter():
        assert torch.equal(adapted(**full_inputs()).logits, base)


REMOTE = """
import sys, torch
from transformers import AutoModelForMaskedLM
# As on a machine without the package, also where it is installed: its import fails.
sys.modules["hf_ddistill"] = None
model = AutoModelForMaskedLM.from_pretrained(sys.argv[1], trust_remote_code=True)
assert type(model).__module__.startswith("transformers_modules"), type(model).__module__
inputs = torch.load(sys.argv[2])
expected = inputs.pop("logits")
assert torch.equal(model(**inputs).logits, expected)
"""


@pytest.mark.slow
def test_saved_code_runs_without_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DDiTForDiscreteDiffusion, "_auto_class", None)
    monkeypatch.setattr(DDiTConfig, "_auto_class", None)
    DDiTConfig.register_for_auto_class()
    DDiTForDiscreteDiffusion.register_for_auto_class("AutoModelForMaskedLM")
    model = build(**FULL)
    model.save_pretrained(tmp_path / "model")
    inputs = full_inputs()
    torch.save(inputs | {"logits": model(**inputs).logits.detach()}, tmp_path / "inputs.pt")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    result = subprocess.run(
        [sys.executable, "-P", "-c", REMOTE, str(tmp_path / "model"), str(tmp_path / "inputs.pt")],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
