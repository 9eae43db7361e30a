"""A language model's forward pass, written from the layouts of the checkpoints, and folders of such
checkpoints. Nothing of the package, and no model of transformers, is in it."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

LLADA = {
    "embed": "model.transformer.wte.weight",
    "norm": "model.transformer.ln_f.weight",
    "head": "model.transformer.ff_out.weight",
    "layer": "model.transformer.blocks.{}.",
    "before": "attn_norm",
    "q": "q_proj",
    "k": "k_proj",
    "v": "v_proj",
    "o": "attn_out",
    "after": "ff_norm",
    "gate": "ff_proj",
    "up": "up_proj",
    "down": "ff_out",
}
QWEN = {
    "embed": "model.embed_tokens.weight",
    "norm": "model.norm.weight",
    "head": "lm_head.weight",
    "layer": "model.layers.{}.",
    "before": "input_layernorm",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "qn": "self_attn.q_norm",
    "kn": "self_attn.k_norm",
    "after": "post_attention_layernorm",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
NEMOTRON = QWEN | {
    "embed": "encoder.embed_tokens.weight",
    "norm": "encoder.norm.weight",
    "head": "diffusion_head.weight",
    "layer": "encoder.layers.{}.",
}

#: A small configuration by the names of transformers, and what `plain_forward` is told of it.
QWEN_CONFIG = {
    "vocab_size": 13,
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 24,
    "rms_norm_eps": 1e-3,
    "rope_theta": 5000.0,
    "mask_token_id": 5,
}
IDS = torch.randint(0, 11, (2, 10), generator=torch.Generator().manual_seed(3))
SIZES = {"layers": 2, "heads": 4, "kv": 2, "theta": 5000.0, "eps": 1e-3}


def full(length):
    """Every token sees every other."""
    return torch.ones(length, length, dtype=torch.bool)


def blockwise(length, size):
    """A token sees its own block and those before."""
    block = torch.arange(length) // size
    return block[:, None] >= block[None, :]


def random_weights(names, *, layers, sizes, bias=(), qk_norm=False, tied=False, seed=0):
    """Random weights under the names of a layout.

    Args:
        sizes: (vocabulary, width, MLP's width, heads, heads of keys, width of a head).
        bias: parts of a layer that have one.
    """
    vocab, width, wide, heads, kv, head = sizes
    shapes = {names["embed"]: (vocab, width), names["norm"]: (width,)}
    if not tied:
        shapes[names["head"]] = (vocab, width)
    parts = {"before": (width,), "after": (width,), "q": (heads * head, width)}
    parts |= {"k": (kv * head, width), "v": (kv * head, width), "o": (width, heads * head)}
    parts |= {"gate": (wide, width), "up": (wide, width), "down": (width, wide)}
    if qk_norm:
        parts |= {"qn": (head,), "kn": (head,)}
    for i in range(layers):
        for part, shape in parts.items():
            name = names["layer"].format(i) + names[part]
            shapes[f"{name}.weight"] = shape
            if part in bias:
                shapes[f"{name}.bias"] = shape[:1]
    draw = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=draw) * (0.3 if len(shape) > 1 else 0.1)
        + (1.0 if "norm" in name or "ln_f" in name else 0.0)
        for name, shape in shapes.items()
    }


def rms(x, weight, eps):
    """Root mean square normalisation."""
    return weight * x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt()


def rotated(x, theta, share=1.0):
    """Rotary positions in halves, of the first `share` of each head; x is (B, L, heads, width)."""
    width = int(x.shape[-1] * share)
    plain = isinstance(theta, float)
    frequency = theta ** (-torch.arange(0, width, 2) / width) if plain else theta
    angle = torch.arange(x.shape[1])[:, None] * frequency
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    a, b, rest = x[..., : width // 2], x[..., width // 2 : width], x[..., width:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], -1)


def linear(x, weights, name):
    """With a bias where there is one."""
    return torch.nn.functional.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))


def gated(x, weights, place):
    """A gated MLP."""
    inner = torch.nn.functional.silu(linear(x, weights, f"{place}gate_proj"))
    return linear(inner * linear(x, weights, f"{place}up_proj"), weights, f"{place}down_proj")


def attention(q, k, v, sees):
    """Of heads that share keys in groups; (B, L, heads, width) to (B, L, heads * width)."""
    groups = q.shape[2] // k.shape[2]
    k, v = k.repeat_interleave(groups, 2), v.repeat_interleave(groups, 2)
    scores = torch.einsum("blhd,bmhd->bhlm", q, k) / q.shape[-1] ** 0.5
    share = scores.masked_fill(~sees, -torch.inf).softmax(-1)
    return torch.einsum("bhlm,bmhd->blhd", share, v).flatten(2)


def plain_forward(
    weights,
    ids,
    sees,
    names,
    *,
    layers,
    heads,
    kv,
    theta,
    eps,
    rotary_share=1.0,
    query_scale=1.0,
    fused=None,
    mlp=None,
):
    """Logits (B, L, K).

    Args:
        sees: (L, L) bool, which position sees which.
        theta: the base of the rotary positions, or their frequencies.
        rotary_share: of a head that they turn.
        query_scale: of the turned queries.
        fused: name of the projection to queries, keys and values in one.
        mlp: (state, name of the layer) -> state, in place of the gated one.
    """
    x = weights[names["embed"]][ids]
    rows, length = ids.shape
    for i in range(layers):
        at = names["layer"].format(i)
        y = rms(x, weights[f"{at}{names['before']}.weight"], eps)
        if fused:
            all_heads = linear(y, weights, at + fused).view(rows, length, heads + 2 * kv, -1)
            q, k, v = all_heads.split([heads, kv, kv], 2)
        else:
            q = linear(y, weights, at + names["q"]).view(rows, length, heads, -1)
            k = linear(y, weights, at + names["k"]).view(rows, length, kv, -1)
            v = linear(y, weights, at + names["v"]).view(rows, length, kv, -1)
        if "qn" in names and f"{at}{names['qn']}.weight" in weights:
            q = rms(q, weights[f"{at}{names['qn']}.weight"], eps)
            k = rms(k, weights[f"{at}{names['kn']}.weight"], eps)
        q, k = rotated(q, theta, rotary_share) * query_scale, rotated(k, theta, rotary_share)
        y = attention(q, k, v, sees)
        x = x + linear(y, weights, at + names["o"])
        y = rms(x, weights[f"{at}{names['after']}.weight"], eps)
        if mlp is not None:
            x = x + mlp(y, at)
            continue
        gate = torch.nn.functional.silu(linear(y, weights, at + names["gate"]))
        y = gate * linear(y, weights, at + names["up"])
        x = x + linear(y, weights, at + names["down"])
    x = rms(x, weights[names["norm"]], eps)
    return x @ weights.get(names["head"], weights[names["embed"]]).T


def write_folder(folder, config, weights, shards=1):
    """A folder with a configuration and weights, in one file or several."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if shards == 1:
        save_file(weights, folder / "model.safetensors")
        return folder
    where = {}
    for i in range(shards):
        file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        part = dict(list(weights.items())[i::shards])
        save_file(part, folder / file)
        where |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def logits(model, **more):
    """Of a model on `IDS`."""
    with torch.no_grad():
        return model(input_ids=IDS, **more).logits
