"""The contract of every converter: it recognises its kind, reads it, and writes it back."""

from __future__ import annotations

import dataclasses
import importlib
import json

import pytest
import torch
from bert_folders import BERT
from block_models import MASK, causal
from cli_runs import refused
from training_runs import tiny
from transformers import AutoModelForCausalLM, BertConfig, BertForMaskedLM

from hf_ddistill import DDiTConfig, DDiTForDiscreteDiffusion
from hf_ddistill.cli.main import main
from hf_ddistill.convert import CausalLM, Converter, recognise, to_block_diffusion
from hf_ddistill.models import NoisedMaskedLM, as_denoiser


@pytest.fixture(params=sorted(Converter.registry))
def kind(request):
    return Converter.named(request.param)


def test_its_own_example_is_not_recognised(kind, tmp_path):
    kind.example(tmp_path)
    assert recognise(str(tmp_path)) is kind
    assert kind.evidence(str(tmp_path)) and kind.reads and kind.gives


def test_its_settings_are_no_json(kind):
    config = json.loads(json.dumps(kind().to_config()))
    assert Converter.from_config(config) == kind()


def test_its_settings_have_no_help(kind):
    for field in dataclasses.fields(kind):
        assert field.metadata["help"].endswith("."), field.name


def test_a_causal_model_is_another_one_when_it_is_written_back(tmp_path):
    CausalLM.example(tmp_path / "lm")
    converter = CausalLM(mask_token_id=11, shift_logits=True, block_size=2)
    model, tokenizer = converter.read(str(tmp_path / "lm"))
    assert tokenizer is None and model.config.block_size == 2 and model.config.shift_logits
    converter.write(model, tmp_path / "back")
    ids = torch.arange(10)[None]
    theirs, ours = (
        AutoModelForCausalLM.from_pretrained(tmp_path / name)(input_ids=ids).logits
        for name in ("lm", "back")
    )
    assert torch.equal(theirs, ours)


def test_what_a_causal_model_has_no_place_for_is_dropped(tmp_path):
    noisy, _ = to_block_diffusion(causal(), mask_token_id=MASK, noise_dim=2)
    with pytest.raises(ValueError, match="takes no noise"):
        CausalLM().write(noisy, tmp_path)
    config = DDiTConfig(vocab_size=4, mask_token_id=3, hidden_size=8, num_hidden_layers=1)
    with pytest.raises(ValueError, match="holds no causal language model"):
        CausalLM().write(DDiTForDiscreteDiffusion(config), tmp_path)


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"block_size": 0}, "block_size"), ({"noise_dim": -1}, "noise_dim"), ({"dtype": "x"}, "'x'")],
)
def test_a_wrong_setting_is_accepted(settings, said):
    with pytest.raises(ValueError, match=said):
        CausalLM(**settings)


def test_the_command_does_not_say_what_it_recognised(tmp_path, capsys):
    CausalLM.example(tmp_path / "lm")
    argv = ["convert", str(tmp_path / "lm"), "--output", str(tmp_path / "out")]
    assert main([*argv, "--mask-token-id", "11", "--noise-dim", "3"]) == 0
    said = capsys.readouterr().out
    assert "is a causal language model: its configuration is of 'llama'" in said
    assert "blocks of 4" in said and "--objective opdlm" in said
    assert main(argv[:1] + [str(tmp_path / "out"), "--output", str(tmp_path / "again")]) == 2
    assert "it is a model of ours already" in capsys.readouterr().err


@pytest.mark.parametrize(("kind", "said"), [("wedlm", "causally"), ("other", "is no model")])
def test_a_model_of_an_unread_type_is_refused_without_a_reason(kind, said, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    with pytest.raises(ValueError, match=said):
        recognise(str(tmp_path))


NEW = '''
"""A converter in a file of its own."""
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar
from hf_ddistill.convert import Converter
from hf_ddistill.models import DDiTConfig, DDiTForDiscreteDiffusion

@dataclass(frozen=True)
class Sketch(Converter):
    """A file of sizes becomes a fresh DDiT."""
    reads: ClassVar[str] = "sketch"
    gives: ClassVar[str] = "DDiT"
    layers: int = field(default=1, metadata={"help": "How many layers."})

    @classmethod
    def recognises(cls, folder):
        return (Path(folder) / "sketch.json").is_file()

    def read(self, folder):
        size = json.loads((Path(folder) / "sketch.json").read_text())
        config = DDiTConfig(vocab_size=5, mask_token_id=4, num_hidden_layers=self.layers, **size)
        return DDiTForDiscreteDiffusion(config), None

    def write(self, model, folder):
        text = json.dumps({"hidden_size": model.config.hidden_size})
        (Path(folder) / "sketch.json").write_text(text)

    @classmethod
    def example(cls, folder):
        (Path(folder) / "sketch.json").write_text('{"hidden_size": 8, "num_attention_heads": 2}')
'''


def test_a_converter_in_a_new_file_is_not_asked(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Converter, "registry", dict(Converter.registry))
    (tmp_path / "converter_of_sketches.py").write_text(NEW)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.import_module("converter_of_sketches")
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    Converter.named("sketch").example(source)
    assert recognise(str(source)) is Converter.named("sketch")
    argv = ["convert", str(source), "--output", str(out)]
    assert main([*argv, "--block-size", "8"]) == 2
    assert (
        "--block-size is of a2d, bd3lm, causal_lm" in capsys.readouterr().err and not out.exists()
    )
    assert main([*argv, "--layers", "2"]) == 0
    assert "is a sketch" in capsys.readouterr().out
    assert DDiTForDiscreteDiffusion.from_pretrained(out).config.num_hidden_layers == 2
    assert "a sketch" in (out / "README.md").read_text()


def test_students_of_transformers_are_no_models_of_ours(tmp_path, capsys):
    model = BertForMaskedLM(BertConfig(**BERT, mask_token_id=4))
    as_denoiser(model)
    model.save_pretrained(tmp_path / "student")
    NoisedMaskedLM.of(model, 3).save_pretrained(tmp_path / "noised")
    for name in ("student", "noised"):
        said = refused(capsys, "convert", tmp_path / name, tmp_path / "out")
        assert "it is a model of ours already" in said
    (tmp_path / "adapters").mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / "adapters" / name).write_text("{}")
    said = refused(capsys, "convert", tmp_path / "adapters", tmp_path / "out")
    assert "holds adapters, which are opened on their base" in said
    assert not (tmp_path / "out").exists()


def test_a_folder_of_ours_without_its_code_is_a_traceback(tmp_path):
    tiny().save_pretrained(tmp_path / "plain")
    model, tokenizer = Converter.named("transformers")().read(str(tmp_path / "plain"))
    assert type(model) is DDiTForDiscreteDiffusion and tokenizer is None
