"""What others saved is read whole, without running any of it, or refused in one sentence."""

from __future__ import annotations

import json
import sys
import types

import pytest
import torch
from safetensors.torch import save_file

from hf_ddistill.convert.renaming import Renaming, check_same, grouped
from hf_ddistill.convert.source import (
    configuration,
    located,
    shapes,
    training_settings,
    weights,
)

STATE = {"a.weight": torch.ones(2, 3), "rotary_emb.inv_freq": torch.ones(2), "b": torch.zeros(3)}


def test_raw_weights_are_taken_where_there_is_a_moving_average(tmp_path):
    shadow = [torch.full((2, 3), 5.0), torch.full((3,), 7.0)]
    torch.save({"state_dict": STATE, "ema": {"shadow_params": shadow}}, tmp_path / "x.ckpt")
    read = weights(tmp_path / "x.ckpt")
    assert list(read) == list(STATE)
    assert torch.equal(read["a.weight"], shadow[0]) and torch.equal(read["b"], shadow[1])
    assert torch.equal(read["rotary_emb.inv_freq"], torch.ones(2))


def test_a_tied_weight_is_counted_twice(tmp_path):
    tied = {"a": STATE["b"], "head": STATE["b"], "c": torch.ones(1)}
    shadow = [torch.full((3,), 2.0), torch.full((1,), 4.0)]
    torch.save({"model": tied, "ema": {"shadow_params": shadow}}, tmp_path / "x.pth")
    read = weights(tmp_path)
    assert torch.equal(read["a"], shadow[0]) and torch.equal(read["head"], shadow[0])
    assert torch.equal(read["c"], shadow[1])


def test_what_lies_beside_the_networks_is_averaged(tmp_path):
    state = {"backbone.a": torch.ones(2), "noise.b": torch.ones(1), "metrics.mean": torch.ones(2)}
    shadow = [torch.full((2,), 5.0), torch.full((1,), 7.0)]
    torch.save({"state_dict": state, "ema": {"shadow_params": shadow}}, tmp_path / "x.ckpt")
    read = weights(tmp_path)
    assert torch.equal(read["backbone.a"], shadow[0]) and torch.equal(read["noise.b"], shadow[1])
    assert torch.equal(read["metrics.mean"], state["metrics.mean"])


def test_an_average_of_other_sizes_is_paired_somehow(tmp_path):
    torch.save(
        {"state_dict": STATE, "ema": {"shadow_params": [torch.ones(3)]}}, tmp_path / "x.ckpt"
    )
    with pytest.raises(ValueError, match="1 tensors that do not match its 2 weights"):
        weights(tmp_path)


def checkpoint_with(module, name, file, monkeypatch):
    """A checkpoint with an object of a class that a package of this name defines."""
    made = types.ModuleType(module)
    cls = type(name, (), {"__module__": module})
    setattr(made, name, cls)
    parts = module.split(".")
    names = [".".join(parts[: i + 1]) for i in range(len(parts))]
    for part in names:
        monkeypatch.setitem(sys.modules, part, made)
    setting = cls()
    setting.lr = 1.0
    torch.save({"state_dict": STATE, "hyper_parameters": {"config": setting}}, file)
    for part in names:
        monkeypatch.delitem(sys.modules, part)


def test_settings_in_a_checkpoint_stop_it(tmp_path, monkeypatch):
    checkpoint_with("omegaconf.dictconfig", "DictConfig", tmp_path / "x.ckpt", monkeypatch)
    assert weights(tmp_path).keys() == STATE.keys()
    assert "omegaconf.dictconfig" not in sys.modules


def test_the_configuration_of_a_run_is_not_read(tmp_path, monkeypatch):
    """As omegaconf pickles it: nodes in nodes, with references between them."""
    made = types.ModuleType("omegaconf")
    Node = type("Node", (), {"__module__": "omegaconf"})
    made.Node = Node
    monkeypatch.setitem(sys.modules, "omegaconf", made)

    def node(value):
        self = Node()
        if isinstance(value, dict):
            self._content = {key: node(item) for key, item in value.items()}
        elif isinstance(value, list):
            self._content = [node(item) for item in value]
        else:
            self._val = value
        # What omegaconf keeps beside it: plain types, which are no code.
        self._metadata, self._kinds = Node(), (dict, int)
        return self

    config = {"model": {"length": 16, "blocks": "${model.length}"}, "ends": [0.5, True, None]}
    kept = {"config": node(config), "tokenizer": Node()}
    torch.save({"state_dict": STATE, "hyper_parameters": kept}, tmp_path / "x.ckpt")
    monkeypatch.delitem(sys.modules, "omegaconf")
    expected = {"model": {"length": 16, "blocks": 16}, "ends": [0.5, True, None]}
    assert training_settings(tmp_path) == expected
    assert weights(tmp_path).keys() == STATE.keys()
    save_file(STATE, tmp_path / "model.safetensors")
    assert training_settings(tmp_path) == {}


def test_code_in_a_pickle_is_run(tmp_path, monkeypatch):
    checkpoint_with("somebody", "Evil", tmp_path / "x.ckpt", monkeypatch)
    with pytest.raises(ValueError, match=r"holds code \(somebody.Evil\), which is never run"):
        weights(tmp_path)


def test_shards_are_not_put_together(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "model-1.safetensors")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="1 of 2 files that .* names are not there: model-2"):
        weights(tmp_path)
    save_file({"b": torch.zeros(1, 4)}, tmp_path / "model-2.safetensors")
    assert set(weights(tmp_path)) == {"a", "b"}
    assert shapes(tmp_path) == {"a": (2,), "b": (1, 4)}


@pytest.mark.parametrize("name", ["model.safetensors", "x.ckpt"])
def test_a_cut_file_is_a_traceback(name, tmp_path):
    file = tmp_path / name
    save_file(STATE, file) if name.endswith("safetensors") else torch.save(STATE, file)
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(ValueError, match="cannot be read"):
        weights(tmp_path)


def test_a_folder_without_weights_or_with_two_is_read(tmp_path):
    with pytest.raises(ValueError, match="has no weights"):
        weights(tmp_path)
    for name in ("a", "b"):
        torch.save(STATE, tmp_path / f"{name}.ckpt")
    with pytest.raises(ValueError, match="several files"):
        weights(tmp_path)
    assert located(str(tmp_path / "a.ckpt")) == tmp_path / "a.ckpt"


def test_a_broken_configuration_is_a_traceback(tmp_path):
    assert configuration(tmp_path) == {}
    for text, said in (("{", "is no JSON"), ("[1]", "must hold an object")):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ValueError, match=said):
            configuration(tmp_path)


NAMES = Renaming((("a.{}.w", "layers.{}.weight"), ("b", "c")), prefix="backbone.")


def test_names_do_not_come_back():
    theirs = {"backbone.a.11.w": torch.ones(1), "backbone.b": torch.ones(2)}
    ours = NAMES.ours(theirs)
    assert set(ours) == {"layers.11.weight", "c"}
    assert set(NAMES.theirs(ours)) == set(theirs)
    wrapped = {"backbone.backbone._orig_mod.a.0.w": torch.ones(1), "module.backbone.b": 1}
    assert set(NAMES.ours(wrapped)) == {"layers.0.weight", "c"}


def test_what_differs_is_not_said_in_groups():
    wanted = {f"l.{i}.w": (1,) for i in range(12)} | {"head": (5, 2)}
    found = {f"l.{i}.w": (1,) for i in range(8)} | {"head": (5, 2)}
    with pytest.raises(
        ValueError, match=r"missing are l.\*.w \(4\) \(the weights have fewer layer"
    ):
        check_same(found, wanted, "x")
    with pytest.raises(
        ValueError, match=r"another size are head \(6, 2\) for \(5, 2\) \(the config"
    ):
        check_same(wanted | {"head": (6, 2)}, wanted, "x")
    behind = {f"net.{key}": value for key, value in wanted.items()}
    with pytest.raises(ValueError, match="behind another prefix"):
        check_same(behind, wanted, "x")
    check_same(wanted, wanted, "x")
    assert grouped(["a.1.x", "a.2.x", "b"]) == "a.*.x (2), b"
