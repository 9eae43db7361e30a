"""iLLaDA, Fast-dLLM v2 and SDAR's experts: their networks, from folders built by their layouts."""

import json

import pytest
import torch
from plain_lm import (
    IDS,
    QWEN,
    QWEN_CONFIG,
    SIZES,
    blockwise,
    full,
    gated,
    linear,
    logits,
    plain_forward,
    random_weights,
    write_folder,
)
from safetensors.torch import load_file, save_file

from hf_ddistill.convert import SDAR, ILLaDA, LLaDA, LLaDA2, Nemotron, SDARMoe, recognise


@pytest.mark.parametrize("said", [True, None])
@pytest.mark.parametrize("bias", [(), ("q", "k", "v", "o", "gate", "up", "down")])
def test_an_illada_of_other_sizes_is_another_network(said, bias, tmp_path):
    sizes = (13, 16, 20, 4, 2, 4)
    weights = random_weights(QWEN, layers=2, sizes=sizes, bias=bias, tied=True)
    config = QWEN_CONFIG | {"model_type": "illada", "tie_word_embeddings": said}
    config |= {"attention_bias": bool(bias), "mlp_bias": bool(bias), "layer_norm_eps": None}
    del config["mask_token_id"]
    folder = str(write_folder(tmp_path, config, weights, shards=2))
    model, _ = recognise(folder)().read(folder)
    expected = plain_forward(weights, IDS, full(10), QWEN, **SIZES)
    torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=1e-5)
    assert model.config.mask_token_id == 5 and model.is_full(model.config.block_size)


@pytest.mark.parametrize("block", [4, 5])
def test_a_fast_dllm_of_other_sizes_is_another_network(block, tmp_path):
    sizes, bias = (13, 16, 20, 4, 1, 4), ("q", "k", "v")
    weights = random_weights(QWEN, layers=2, sizes=sizes, bias=bias)
    config = QWEN_CONFIG | {"model_type": "Fast_dLLM_Qwen", "bd_size": block}
    folder = str(write_folder(tmp_path, config | {"num_key_value_heads": 1}, weights))
    model, _ = recognise(folder)().read(folder)
    x_t = torch.where(torch.arange(10) % 3 > 0, IDS, 5)
    with torch.no_grad():
        both = model(input_ids=x_t, clean_ids=IDS).logits
    for start in range(0, 10, block):
        # Decoded as theirs: the blocks before are finished, the output before speaks of a token.
        state = torch.cat([IDS[:, :start], x_t[:, start : start + block]], 1)
        length = state.shape[1]
        own = plain_forward(weights, state, blockwise(length, block), QWEN, **SIZES | {"kv": 1})
        expected = torch.cat([own[:, :1], own[:, :-1]], 1)[:, start:]
        torch.testing.assert_close(both[:, start:length], expected, atol=1e-5, rtol=1e-5)


def expert_weights(experts=5, width=8, head=6):
    """SDAR's names of a layer without and one with experts."""
    weights = random_weights(QWEN, layers=2, sizes=(13, 16, 20, 4, 2, head), qk_norm=True)
    at, draw = "model.layers.1.mlp.", torch.Generator().manual_seed(1)
    weights = {key: value for key, value in weights.items() if not key.startswith(at)}
    shapes = {f"{at}gate.weight": (experts, 16)}
    for e in range(experts):
        shapes |= {f"{at}experts.{e}.{p}_proj.weight": (width, 16) for p in ("gate", "up")}
        shapes |= {f"{at}experts.{e}.down_proj.weight": (16, width)}
    return weights | {key: torch.randn(s, generator=draw) * 0.3 for key, s in shapes.items()}


def mixed(x, weights, at, normed, taken):
    """The experts of each token, one by one."""
    if f"{at}gate.weight" not in weights:
        return gated(x, weights, at)
    out = torch.zeros_like(x)
    shares = linear(x, weights, f"{at}gate").softmax(-1)
    for place in [(r, c) for r in range(x.shape[0]) for c in range(x.shape[1])]:
        top = shares[place].topk(taken)
        total = float(top.values.sum()) if normed else 1.0
        for share, e in zip(top.values.tolist(), top.indices.tolist(), strict=True):
            out[place] += share / total * gated(x[place], weights, f"{at}experts.{e}.")
    return out


@pytest.mark.parametrize("normed", [False, True])
def test_an_sdar_of_experts_is_another_network(normed, tmp_path):
    weights = expert_weights()
    config = QWEN_CONFIG | {"model_type": "sdar_moe", "head_dim": 6, "block_size": 4}
    config |= {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
    config |= {"norm_topk_prob": normed, "mlp_only_layers": [0]}
    folder = str(write_folder(tmp_path, config, weights, shards=3))
    model, _ = recognise(folder)().read(folder)
    mlp = {"mlp": lambda x, at: mixed(x, weights, f"{at}mlp.", normed, 2)}
    expected = plain_forward(weights, IDS, blockwise(10, 4), QWEN, **SIZES, **mlp)
    torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", [ILLaDA, SDAR])
def test_a_head_of_its_own_is_lost_where_it_is_called_tied(kind, tmp_path):
    kind.example(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | {"tie_word_embeddings": True}
    weights = load_file(tmp_path / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    model, _ = kind().read(str(write_folder(tmp_path, config, weights)))
    assert model.lm.lm_head.weight is model.lm.model.embed_tokens.weight
    weights["lm_head.weight"][0] += 1
    with pytest.raises(ValueError, match="have a head of their own"):
        kind().read(str(write_folder(tmp_path, config, weights)))


@torch.no_grad()
def said(model):
    return model(input_ids=IDS.clamp_max(9)).logits


@pytest.mark.parametrize("kind", [LLaDA, ILLaDA, Nemotron])
def test_frequencies_that_older_versions_saved_are_unexpected_weights(kind, tmp_path):
    kind.example(tmp_path)
    model, _ = kind().read(str(tmp_path))
    weights = load_file(tmp_path / "model.safetensors")
    for name in ("model.layers.0.self_attn.rotary_emb.inv_freq", "_orig_mod.rotary_emb.inv_freq"):
        weights[name] = torch.ones(2)
    save_file(weights, tmp_path / "model.safetensors")
    again, _ = kind().read(str(tmp_path))
    assert torch.equal(said(again), said(model))


@pytest.mark.parametrize("kind", [LLaDA, ILLaDA, Nemotron])
def test_a_special_token_that_there_is_not_is_a_traceback(kind, tmp_path):
    kind.example(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"pad_token_id": 99}))
    with pytest.raises(ValueError, match="has pad_token_id=99, which is none of its"):
        kind().read(str(tmp_path))


@pytest.mark.parametrize("kind", [SDAR, SDARMoe, LLaDA2])
def test_weights_beyond_the_configuration_are_dropped(kind, tmp_path):
    kind.example(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["model.layers.9.input_layernorm.weight"] = torch.ones(8)
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"no place for 1 tensors|unexpected are"):
        kind().read(str(tmp_path))
