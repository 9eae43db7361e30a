"""GIDD's network, from its layout, and the process that its configuration names."""

import json

import pytest
import torch
from plain_lm import write_folder
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM

from hf_ddistill import as_denoiser
from hf_ddistill.convert import Gidd, recognise

CONFIG = {
    "model_type": "gidd",
    "vocab_size": 11,
    "hidden_size": 12,
    "intermediate_size": 10,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "head_dim": 4,
    "attn_soft_cap": 2.0,
    "resid_scale": 4.0,
    "rms_norm_eps": 1e-3,
    "use_qk_norm": True,
    "attention_bias": True,
    "mlp_bias": True,
    "weight_scaling": "fan_in",
    "head_scaling": 8.0,
    "rope_theta": 500.0,
    "max_position_embeddings": 16,
    "noise_type": 1000.0,
}
IDS = torch.randint(0, 11, (2, 7), generator=torch.Generator().manual_seed(3))


def layout(config):
    """Random weights under their names."""
    draw = torch.Generator().manual_seed(1)
    width, inner, heads = 12, 10, 3
    shapes = {"model.embed_tokens.weight": (11, width), "model.norm.weight": (width,)}
    shapes["lm_head.weight"] = (11, width)
    for i in range(3):
        at = f"model.layers.{i}."
        shapes |= {f"{at}self_attn.{p}_proj.weight": (width, width) for p in "qkvo"}
        shapes |= {f"{at}{p}_layernorm.weight": (width,) for p in ("attn", "mlp")}
        if config["use_qk_norm"]:
            shapes |= {f"{at}self_attn.{p}_norm.weight": (width,) for p in "qk"}
        if config["attention_bias"]:
            shapes |= {f"{at}self_attn.{p}_bias": (heads, 4) for p in "kv"}
        shapes |= {f"{at}mlp.up_proj.weight": (inner, width)}
        shapes |= {f"{at}mlp.down_proj.weight": (width, inner)}
        if config["mlp_bias"]:
            shapes |= {f"{at}mlp.up_proj.bias": (inner,), f"{at}mlp.down_proj.bias": (width,)}
    return {key: torch.randn(shape, generator=draw) for key, shape in shapes.items()}


def plain(weights, config, ids, sees):
    """Logits of one row, head by head and query by query, in float64."""
    w = {key: value.double() for key, value in weights.items()}
    eps = config["rms_norm_eps"]

    def norm(x, name):
        return (1 + w[f"{name}.weight"]) * x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt()

    def project(x, name):
        weight = w[f"{name}.weight"]
        scale = weight.shape[1] ** -0.5 if config["weight_scaling"] == "fan_in" else 1.0
        return x @ weight.T * scale + w.get(f"{name}.bias", torch.zeros(1).double())

    def turned(x):
        out = x.clone()
        for place in range(len(x)):
            for j in range(2):
                angle = torch.tensor(place * config["rope_theta"] ** (-2 * j / 4)).double()
                a, b = x[place, j], x[place, j + 2]
                out[place, j] = a * angle.cos() - b * angle.sin()
                out[place, j + 2] = b * angle.cos() + a * angle.sin()
        return out

    x = w["model.embed_tokens.weight"][ids]
    for i in range(3):
        at = f"model.layers.{i}."
        y = norm(x, f"{at}attn_layernorm")
        q, k, v = (project(y, f"{at}self_attn.{p}_proj") for p in "qkv")
        if config["use_qk_norm"]:
            q, k = norm(q, f"{at}self_attn.q_norm"), norm(k, f"{at}self_attn.k_norm")
        heads = []
        for h in range(3):
            part = slice(4 * h, 4 * h + 4)
            queries, keys, values = turned(q[:, part]), turned(k[:, part]), v[:, part]
            rows = []
            for place, query in enumerate(queries):
                near, worth = keys[sees[place]], values[sees[place]]
                if config["attention_bias"]:
                    near = torch.cat([w[f"{at}self_attn.k_bias"][h][None], near])
                    worth = torch.cat([w[f"{at}self_attn.v_bias"][h][None], worth])
                cap = config["attn_soft_cap"]
                score = cap * torch.tanh(near @ query / 2 / cap)
                rows.append(score.softmax(0) @ worth)
            heads.append(torch.stack(rows))
        share = config["resid_scale"] / 3
        x = x + share * project(torch.cat(heads, 1), f"{at}self_attn.o_proj")
        inner = project(norm(x, f"{at}mlp_layernorm"), f"{at}mlp.up_proj").relu() ** 2
        x = x + share * project(inner, f"{at}mlp.down_proj")
    x = norm(x, "model.norm")
    if config.get("tie_word_embeddings"):
        return x @ w["model.embed_tokens.weight"].T
    return x @ w["lm_head.weight"].T * config["head_scaling"]


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"attention_bias": False, "mlp_bias": False, "use_qk_norm": False},
        {"tie_word_embeddings": True, "weight_scaling": 1.0, "attn_soft_cap": 30.0},
    ],
)
def test_its_network_is_another_one(more, tmp_path):
    config = CONFIG | more
    weights = layout(config)
    folder = str(write_folder(tmp_path, config, weights))
    assert recognise(folder) is Gidd
    model, _ = Gidd().read(folder)
    full = torch.ones(7, 7, dtype=torch.bool)
    with torch.no_grad():
        found = model(input_ids=IDS).logits
        some = model(input_ids=IDS, at=torch.tensor([2, 10])).logits
    expected = torch.stack([plain(weights, config, row, full) for row in IDS])
    torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(some, found.flatten(0, 1)[[2, 10]])


def test_known_tokens_see_what_is_not_known(tmp_path):
    weights = layout(CONFIG)
    model, _ = Gidd().read(str(write_folder(tmp_path, CONFIG, weights)))
    known = (torch.arange(7) < 3).expand(2, 7)
    sees = (torch.arange(7) < 3)[None] | (torch.arange(7) >= 3)[:, None]
    with torch.no_grad():
        found = model(input_ids=IDS, context=known).logits
    expected = torch.stack([plain(weights, CONFIG, row, sees) for row in IDS])
    torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("shift", "process"), [(1000.0, "hybrid"), (-1000.0, "absorbing")])
def test_its_process_is_another_one(shift, process, tmp_path):
    config = CONFIG | {"noise_type": shift}
    model, _ = Gidd().read(str(write_folder(tmp_path / "theirs", config, layout(config))))
    model.save_pretrained(tmp_path / "ours")
    again = AutoModelForMaskedLM.from_pretrained(tmp_path / "ours").eval()
    denoiser = as_denoiser(again)
    assert denoiser.diffusion.process.to_config()["type"] == process
    assert denoiser.diffusion.process.mask_token_id == 3
    with torch.no_grad():
        assert torch.equal(again(input_ids=IDS).logits, model(input_ids=IDS).logits)
    # The noise at t = 1 is all masks, or every token but the mask alike.
    kernel = denoiser.diffusion.kernel(torch.zeros(1), torch.ones(1)).rows(torch.tensor([[0]]))
    noise = kernel[0, 0].double()
    left = torch.eye(11).double()[0] * 1e-3
    mask = torch.eye(11).double()[3]
    pure = mask if process == "absorbing" else (1 - mask) / 10
    torch.testing.assert_close(noise, left + 0.999 * pure, atol=1e-6, rtol=0)


def test_a_mixture_that_changes_with_the_time_is_read(tmp_path):
    config = CONFIG | {"noise_type": 0.0}
    folder = write_folder(tmp_path, config, layout(config))
    with pytest.raises(ValueError, match="mixture of masks and uniform tokens"):
        Gidd().read(str(folder))


def test_tensors_differ_after_a_round_trip(tmp_path):
    folder = write_folder(tmp_path / "theirs", CONFIG, layout(CONFIG), shards=2)
    model, _ = Gidd().read(str(folder))
    Gidd().write(model, tmp_path / "back")
    back = load_file(tmp_path / "back" / "model.safetensors")
    theirs = layout(CONFIG)
    assert back.keys() == theirs.keys()
    assert all(torch.equal(back[key], theirs[key]) for key in theirs)
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    assert {key: config[key] for key in CONFIG} == CONFIG


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [("head_dim", 6, "do not share its width"), ("num_hidden_layers", 2, "more layers")],
)
def test_a_configuration_of_another_network_is_read(field, value, said, tmp_path):
    folder = write_folder(tmp_path, CONFIG | {field: value}, layout(CONFIG))
    with pytest.raises(ValueError, match=said):
        Gidd().read(str(folder))
