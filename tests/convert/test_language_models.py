"""Diffusion language models of others: their numbers, from folders built by their layouts."""

import json
from pathlib import Path

import pytest
import torch
from golden import DATA
from plain_lm import (
    IDS,
    LLADA,
    QWEN,
    QWEN_CONFIG,
    SIZES,
    blockwise,
    full,
    logits,
    plain_forward,
    random_weights,
    write_folder,
)
from safetensors.torch import load_file

from hf_ddistill import BlockDiffusionLM, as_denoiser
from hf_ddistill.convert import (
    A2D,
    SDAR,
    Converter,
    Dream,
    FastDLLM,
    ILLaDA,
    LLaDA,
    LLaDA2,
    Nemotron,
    SDARMoe,
    recognise,
)

LLADA_CONFIG = {
    "model_type": "llada",
    "d_model": 16,
    "n_heads": 4,
    "n_kv_heads": 2,
    "n_layers": 2,
    "mlp_hidden_size": 20,
    "activation_type": "silu",
    "block_type": "llama",
    "rope": True,
    "rope_theta": 5000.0,
    "layer_norm_type": "rms",
    "rms_norm_eps": 1e-3,
    "vocab_size": 11,
    "embedding_size": 13,
    "weight_tying": False,
    "max_sequence_length": 24,
    "mask_token_id": 10,
}
KINDS = [LLaDA, ILLaDA, Dream, FastDLLM, SDAR, SDARMoe, Nemotron, LLaDA2, A2D]


@pytest.mark.parametrize(
    ("kind", "expected"), [("llada", "logits"), ("dream", "logits_right_shifted")]
)
def test_the_golden_numbers_are_others(kind, expected):
    folder = DATA / kind
    converter = recognise(str(folder))
    assert converter is Converter.named(kind)
    model, tokenizer = converter().read(str(folder))
    arrays = load_file(folder / "io.safetensors")
    with torch.no_grad():
        found = model(input_ids=arrays["x_t"]).logits
        torch.testing.assert_close(found, arrays[expected], atol=1e-5, rtol=0)
        if "attention_mask" in arrays:
            real = arrays["attention_mask"]
            padded = model(input_ids=arrays["x_t"], attention_mask=real).logits
            theirs = arrays["logits_with_attention_mask"]
            where = real.bool()
            torch.testing.assert_close(padded[where], theirs[where], atol=1e-5, rtol=0)
    assert tokenizer is None and as_denoiser(model).diffusion.process.mask_token_id == 48


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("kv", "shards"), [(4, 1), (2, 3), (1, 1)])
def test_a_llada_of_other_sizes_is_another_network(tied, kv, shards, tmp_path):
    sizes = (13, 16, 20, 4, kv, 4)
    weights = random_weights(LLADA, layers=2, sizes=sizes, tied=tied)
    config = LLADA_CONFIG | {"n_kv_heads": kv, "weight_tying": tied}
    folder = write_folder(tmp_path / "llada", config, weights, shards)
    model, _ = LLaDA().read(str(folder))
    expected = plain_forward(weights, IDS, full(10), LLADA, **SIZES | {"kv": kv})
    torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=1e-5)
    assert model.is_full(model.config.block_size) and model.config.vocab_size == 13


def test_sizes_that_llada_does_not_say_are_guessed_otherwise(tmp_path):
    left = ("n_kv_heads", "mlp_hidden_size", "embedding_size", "rope_theta", "weight_tying")
    config = {key: value for key, value in LLADA_CONFIG.items() if key not in left}
    weights = random_weights(LLADA, layers=2, sizes=(11, 16, 64, 4, 4, 4), tied=True)
    model, _ = LLaDA().read(str(write_folder(tmp_path, config, weights)))
    named = SIZES | {"kv": 4, "theta": 10000.0}
    expected = plain_forward(weights, IDS, full(10), LLADA, **named)
    torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "bare"])
def test_what_wrappers_put_before_names_of_llada_is_in_the_way(prefix, tmp_path):
    weights = random_weights(LLADA, layers=2, sizes=(13, 16, 20, 4, 2, 4))
    wrapped = {
        key.removeprefix("model.") if prefix == "bare" else prefix + key: value
        for key, value in weights.items()
    }
    model, _ = LLaDA().read(str(write_folder(tmp_path, LLADA_CONFIG, wrapped)))
    expected = plain_forward(weights, IDS, full(10), LLADA, **SIZES)
    torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rope", ["rope_theta", "rope_parameters"])
@pytest.mark.parametrize("tied", [False, True])
def test_a_dream_of_other_sizes_is_another_network(rope, tied, tmp_path):
    weights = random_weights(
        QWEN, layers=2, sizes=(13, 16, 20, 4, 2, 4), bias=("q", "k", "v"), tied=tied
    )
    config = QWEN_CONFIG | {"model_type": "Dream", "tie_word_embeddings": tied}
    if rope == "rope_parameters":
        config["rope_parameters"] = {"rope_type": "default", "rope_theta": config.pop("rope_theta")}
    model, _ = Dream().read(str(write_folder(tmp_path, config, weights)))
    own = plain_forward(weights, IDS, full(10), QWEN, **SIZES)
    expected = torch.cat([own[:, :1], own[:, :-1]], 1)
    torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("head", "block", "bias"), [(4, 4, ()), (6, 3, ("q", "k", "v", "o"))])
def test_an_sdar_of_other_sizes_is_another_network(head, block, bias, tmp_path):
    sizes = (13, 16, 20, 4, 2, head)
    weights = random_weights(QWEN, layers=2, sizes=sizes, qk_norm=True, bias=bias)
    own = {"model_type": "sdar", "head_dim": head, "block_size": block}
    config = QWEN_CONFIG | own | {"attention_bias": bool(bias)}
    model, _ = SDAR().read(str(write_folder(tmp_path, config, weights)))
    expected = plain_forward(weights, IDS, blockwise(10, block), QWEN, **SIZES)
    torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=1e-5)
    assert model.config.block_size == block and not model.config.shift_logits


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_saved_needs_another_word(kind, tmp_path):
    kind.example(tmp_path / "source")
    model, _ = kind().read(str(tmp_path / "source"))
    model.save_pretrained(tmp_path / "ours")
    again = BlockDiffusionLM.from_pretrained(tmp_path / "ours")
    ids = IDS.clamp_max(9)
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, again(input_ids=ids).logits)
    assert as_denoiser(again).diffusion.process.mask_token_id == 11
    drawn = again.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=5)
    assert drawn.shape == (1, 8) and not (drawn == 11).any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tensors_or_names_differ_after_a_round_trip(kind, dtype, tmp_path):
    kind.example(tmp_path / "source")
    file = tmp_path / "source" / "model.safetensors"
    # The router's correction is in float32 whatever the rest is.
    before = {
        key: value if key.endswith("expert_bias") else value.to(dtype)
        for key, value in load_file(file).items()
    }
    config = json.loads((tmp_path / "source" / "config.json").read_text())
    write_folder(tmp_path / "source", config, before)
    model, _ = kind().read(str(tmp_path / "source"))
    assert model.dtype == dtype
    kind().write(model, tmp_path / "back")
    after = load_file(tmp_path / "back" / "model.safetensors")
    assert before.keys() == after.keys()
    assert {k: v.dtype for k, v in before.items()} == {k: v.dtype for k, v in after.items()}
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert recognise(str(tmp_path / "back")) is kind
    again, _ = kind().read(str(tmp_path / "back"))
    assert again.config.to_dict() == model.config.to_dict()


@pytest.mark.parametrize(
    ("kind", "field", "value", "said"),
    [
        (LLaDA, "alibi", True, "alibi=True"),
        (LLaDA, "rope", None, "rope=False, as it is where not given"),
        (LLaDA, "layer_norm_type", "default", "layer_norm_type='default'"),
        (LLaDA, "activation_type", "swiglu", "activation_type='swiglu'"),
        (LLaDA, "block_type", "sequential", "block_type='sequential'"),
        (LLaDA, "include_bias", True, "include_bias=True"),
        (LLaDA, "scale_logits", True, "scale_logits=True"),
        (LLaDA, "d_model", None, "lacks d_model"),
        (LLaDA, "n_heads", 0, "gives 0 for n_heads"),
        (LLaDA, "mask_token_id", None, "lacks mask_token_id"),
        (LLaDA, "mask_token_id", 14, "no row of its 14 embeddings"),
        (Dream, "rope_theta", None, "lacks rope_theta"),
        (Dream, "use_sliding_window", True, "sliding attention"),
        (Dream, "vocab_size", "12", "gives '12' for vocab_size"),
        (SDAR, "hidden_size", None, "lacks hidden_size"),
        (SDAR, "block_size", 0, "gives 0 for block_size"),
        (SDAR, "num_hidden_layers", 2, "fewer layers than the configuration"),
        (SDAR, "intermediate_size", 9, "of another size are"),
        (ILLaDA, "layer_norm_eps", 1e-5, "layer_norm_eps=1e-05"),
        (ILLaDA, "rope_theta", None, "lacks rope_theta"),
        (FastDLLM, "bd_size", 0, "gives 0 for bd_size"),
        (SDARMoe, "norm_topk_prob", None, "lacks norm_topk_prob"),
        (SDARMoe, "num_experts", None, "lacks num_experts"),
    ],
)
def test_a_configuration_of_another_network_is_read(kind, field, value, said, tmp_path):
    kind.example(tmp_path)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text()) | {field: value}
    file.write_text(json.dumps({key: v for key, v in config.items() if v is not None}))
    with pytest.raises(ValueError, match=said):
        kind().read(str(tmp_path))


def test_remote_code_is_run_or_asked_for(tmp_path, monkeypatch):
    Dream.example(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "configuration_dream.DreamConfig"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "configuration_dream.py").write_text("raise SystemExit('it was run')\n")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asked"))
    assert recognise(str(tmp_path)) is Dream
    assert Dream().read(str(tmp_path))[0].config.shift_logits


def test_a_weights_file_without_a_network_is_a_traceback(tmp_path):
    LLaDA.example(tmp_path)
    whole = (tmp_path / "model.safetensors").read_bytes()
    Path(tmp_path / "model.safetensors").write_bytes(whole[:-40])
    with pytest.raises(ValueError, match="cut or damaged"):
        LLaDA().read(str(tmp_path))


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        (Dream, {"model_type": "dream"}),
        (LLaDA, {"model_type": "llada_of_others", "architectures": ["LLaDAModelLM"]}),
    ],
)
def test_another_spelling_is_another_model(kind, named, tmp_path):
    kind.example(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | named
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert recognise(str(tmp_path)) is kind
    assert named["model_type"] in kind.evidence(str(tmp_path))
