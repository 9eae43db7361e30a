"""What is wrong with a folder of others is one sentence, whichever converter reads it."""

from __future__ import annotations

import json

import pytest
import torch
from cli_runs import refused
from safetensors.torch import load_file, save_file

from hf_ddistill.convert import Converter

#: Without those whose folders are of models of ours or of transformers.
KINDS = sorted(Converter.registry.keys() - {"causal_lm", "students", "transformers"})
WRONG = (None, "x", -1, [], 1.5)


def sentence(kind, folder):
    """What reading says: nothing, or one line; any other error is the caller's."""
    try:
        Converter.named(kind)().read(str(folder))
    except ValueError as error:
        assert str(error) and "\n" not in str(error), error
        return str(error)
    return ""


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_field_is_a_traceback(kind, tmp_path):
    Converter.named(kind).example(tmp_path)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    for place, name in enumerate(config):
        # One wrong value a field: all of them for all fields take minutes.
        value = WRONG[place % len(WRONG)]
        file.write_text(json.dumps(config | {name: value}))
        sentence(kind, tmp_path)
    file.write_text(json.dumps(config))
    assert not sentence(kind, tmp_path)


@pytest.mark.parametrize("kind", ["llada", "sdar", "mdlm"])
@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("config.json", "[1]"),
        ("config.json", '{"model_type": [1]}'),
        ("generation_config.json", "{"),
        ("generation_config.json", "[1]"),
        ("tokenizer_config.json", "[1]"),
        ("tokenizer.json", "{"),
        ("model.safetensors.index.json", "[]"),
        ("model.safetensors.index.json", '{"weight_map": []}'),
        ("model.safetensors.index.json", '{"weight_map": {"a": 3}}'),
        ("model.safetensors.index.json", '{"weight_map": {"a": "../kept.safetensors"}}'),
    ],
)
def test_a_broken_file_beside_the_weights_is_a_traceback(kind, file, text, tmp_path, capsys):
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    Converter.named(kind).example(source)
    if file.endswith("index.json"):
        (source / "model.safetensors").rename(tmp_path / "kept.safetensors")
    (source / file).write_text(text)
    before = {each.name: each.read_bytes() for each in source.iterdir()}
    if kind == "mdlm" and file == "generation_config.json":
        return  # its networks have none
    assert refused(capsys, "convert", source, out)
    assert not out.exists()
    assert before == {each.name: each.read_bytes() for each in source.iterdir()}


@pytest.mark.parametrize("kind", ["llada", "sdar_moe", "nemotron", "gidd", "mdlm"])
@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_a_quantised_checkpoint_is_read_as_numbers(kind, dtype, tmp_path):
    Converter.named(kind).example(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    key = next(key for key, value in weights.items() if value.ndim == 2)
    save_file(weights | {key: weights[key].to(dtype)}, tmp_path / "model.safetensors")
    assert "it is quantised" in sentence(kind, tmp_path)


@pytest.mark.parametrize("wrong", [{"dtype": "x"}, {"dtype": 1.5}, {"auto_map": None}])
def test_a_folder_of_ours_with_a_wrong_field_is_a_traceback(wrong, tmp_path):
    Converter.named("transformers").example(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | wrong))
    assert sentence("transformers", tmp_path)


@pytest.mark.parametrize(
    "wrong", [{"hidden_act": "x"}, {"intermediate_size": 9}, {"num_hidden_layers": 2}]
)
def test_weights_that_a_causal_model_lacks_are_random(wrong, tmp_path, capsys):
    source, out = tmp_path / "source", tmp_path / "out"
    Converter.named("causal_lm").example(source)
    file = source / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | wrong))
    assert refused(capsys, "convert", source, out, "--mask-token-id", "11")
    assert not out.exists()
