"""A model is loaded with all of its weights, or refused in a sentence that names what is wrong."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from hf_ddistill.hub import load_model
from hf_ddistill.models import (
    DDiTConfig,
    DDiTForDiscreteDiffusion,
    load_checkpoint,
    load_masked_lm,
)

SIZES = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8}
SIZES |= {"vocab_size": 7, "max_position_embeddings": 8}


def bert(cls=BertForMaskedLM, **sizes):
    return cls(BertConfig(**SIZES, num_hidden_layers=1, **sizes))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A DDiT of two layers in a folder."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    config = DDiTConfig(**SIZES, num_hidden_layers=2, mask_token_id=6)
    DDiTForDiscreteDiffusion(config).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """A copy of it that may be damaged."""
    return shutil.copytree(saved, tmp_path / "model")


def rewrite(folder, change):
    """Change the tensors of a folder, a dictionary, in place."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, {"format": "pt"})


def test_a_whole_model_is_loaded_bit_for_bit(folder):
    weights = load_masked_lm(folder).state_dict()
    assert all(
        torch.equal(weights[key], value)
        for key, value in load_file(folder / "model.safetensors").items()
    )


def test_missing_weights_are_named_and_not_drawn_at_random(folder):
    rewrite(
        folder, lambda tensors: [tensors.pop(key) for key in list(tensors) if "layers.1" in key]
    )
    message = r"lack 8 of the 20 tensors .*random: model\.layers\.1\.attn\.out\.weight.* and 2 more"
    for load in (load_masked_lm, lambda name: load_model(str(name))):
        with pytest.raises(ValueError, match=message):
            load(folder)


def test_weights_that_are_no_numbers_are_named(folder):
    rewrite(folder, lambda tensors: tensors["lm_head.bias"].fill_(float("inf")))
    with pytest.raises(ValueError, match=r"NaN or infinite: lm_head\.bias\.$"):
        load_masked_lm(folder)
    rewrite(folder, lambda tensors: tensors["lm_head.bias"].fill_(float("nan")))
    with pytest.raises(ValueError, match=r"NaN or infinite: lm_head\.bias\.$"):
        load_checkpoint(DDiTForDiscreteDiffusion, folder)


def test_weights_of_another_size_than_the_config_are_named(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 9}))
    with pytest.raises(ValueError, match=r"not of the sizes .*lm_head\.bias \(7,\) for \(9,\)"):
        load_masked_lm(folder)
    assert load_masked_lm(folder, ignore_mismatched_sizes=True).lm_head.bias.shape == (9,)


@pytest.mark.parametrize("size", [0, 5, 2_000, -1])
def test_a_cut_file_of_weights_is_one_sentence(folder, size):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(ValueError, match="cannot be read; a file is cut or damaged"):
        load_masked_lm(folder)


def test_a_folder_without_weights_is_one_sentence(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="no file named model.safetensors"):
        load_masked_lm(folder)


CONFIGS = {
    "no json": ("{", "not a valid JSON"),
    "unknown type": ('{"model_type": "ddot"}', "model type `ddot`"),
    "no type": ("{}", "model_type"),
    "wrong value": ('{"model_type": "ddit", "vocab_size": "many"}', "vocab_size.*expected int"),
    "sizes": ('{"model_type": "ddit", "hidden_size": 7}', "hidden_size=7 must be a multiple"),
    "no heads": ('{"model_type": "ddit", "num_attention_heads": 0}', "heads=0 must be at least 1"),
    "negative": ('{"model_type": "ddit", "cond_dim": -32}', "cond_dim=-32 must be at least 1"),
    "of another": (
        '{"model_type": "bert", "vocab_size": -1}',
        "No model can be made of",
    ),
}


@pytest.mark.parametrize(("text", "message"), CONFIGS.values(), ids=CONFIGS.keys())
def test_a_broken_config_is_one_sentence(folder, text, message):
    (folder / "config.json").write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        load_masked_lm(folder)
    assert "\n" not in str(caught.value)


NAMES = {
    "techer": "there is no folder techer, and the Hub cannot be asked",
    "me/techer": "there is no folder me/techer, and the Hub cannot be asked",
    "./techer": r"there is no folder \./techer\.",
    "/a/b": "there is no folder /a/b",
    "my techer": "neither a folder nor a Hub id",
}


@pytest.mark.parametrize(("name", "message"), NAMES.items(), ids=NAMES.keys())
def test_a_misspelt_name_is_said_at_once(name, message):
    with pytest.raises(ValueError, match=message):
        load_masked_lm(name)


def test_files_and_folders_that_hold_no_model_are_said(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(ValueError, match="is a file"):
        load_masked_lm(tmp_path / "a.txt")
    with pytest.raises(ValueError, match="there is no config.json in it"):
        load_masked_lm(tmp_path)


def test_weights_that_a_model_does_without_are_no_error(tmp_path):
    # Tied ones, a pooler and a second head: what the files of real masked LMs hold or lack.
    bert().save_pretrained(tmp_path / "tied")
    assert "cls.predictions.decoder.weight" not in load_file(tmp_path / "tied/model.safetensors")
    load_masked_lm(tmp_path / "tied")
    bert(BertForPreTraining).save_pretrained(tmp_path / "more")
    with pytest.warns(UserWarning, match=r"no place for 4 tensors.*cls\.seq_relationship\.bias"):
        load_masked_lm(tmp_path / "more")


def test_a_backbone_alone_is_no_masked_language_model(tmp_path):
    bert(BertModel).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"lack 6 of .*cls\.predictions\.bias"):
        load_masked_lm(tmp_path)


def test_a_causal_language_model_is_sent_to_conversion(tmp_path):
    LlamaForCausalLM(LlamaConfig(**SIZES, num_hidden_layers=1)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="a llama model, a causal one; `hf-ddistill convert`"):
        load_masked_lm(tmp_path)
    rewrite(tmp_path, lambda tensors: tensors.pop("model.norm.weight"))
    with pytest.raises(ValueError, match=r"lack 1 of .*model\.norm\.weight"):
        load_checkpoint(AutoModelForCausalLM, tmp_path)


def test_no_table_is_printed(folder, caplog):
    rewrite(folder, lambda tensors: tensors.pop("lm_head.bias"))
    with pytest.raises(ValueError):
        load_masked_lm(folder)
    assert "LOAD REPORT" not in caplog.text


def test_adapters_that_are_not_whole_are_refused(tmp_path):
    base = bert()
    base.config.mask_token_id = 6
    base.save_pretrained(tmp_path / "base")
    adapted = get_peft_model(base, LoraConfig(target_modules=["query", "value"]))
    adapted.save_pretrained(tmp_path / "adapters")
    file = tmp_path / "adapters" / "adapter_config.json"
    place = {"base_model_name_or_path": str(tmp_path / "base")}
    file.write_text(json.dumps(json.loads(file.read_text()) | place))
    load_model(str(tmp_path / "adapters"))
    weights = tmp_path / "adapters" / "adapter_model.safetensors"
    tensors = load_file(weights)
    lost = [key for key in tensors if "query" in key]
    save_file({key: tensors[key] for key in tensors if key not in lost}, weights)
    with pytest.raises(ValueError, match="adapters of .* are not whole: .*query"):
        load_model(str(tmp_path / "adapters"))
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ValueError, match="adapters of .* cannot be read"):
        load_model(str(tmp_path / "adapters"))
    (tmp_path / "base" / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="holds adapters of the base .*no file named"):
        load_model(str(tmp_path / "adapters"))
