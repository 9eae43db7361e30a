"""Checkpoints in the layout of SEDD, MDLM, Duo and BD3LM, and that layout's network once more,
written from its description and not from our modules."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models
from torch.nn.functional import gelu, layer_norm, silu
from transformers import PreTrainedTokenizerFast

GOLDEN_SEEDS = {"sedd_absorb": (1, 51), "mdlm_subs": (5, 51), "duo_uniform": (9, 50)}
GOLDEN_SEEDS |= {"bd3lm": (54, 51)}
GOLDEN = {"hidden": 64, "cond": 32, "layers": 2, "heads": 4, "length": 16}


def layout(vocab, *, hidden=16, cond=8, layers=2, heads=2, length=None, adaln=True):
    """Name -> shape, in the order of `parameters()`, without what is not learned."""
    shapes = {"vocab_embed.embedding": (vocab, hidden)}
    if adaln:
        shapes |= {"sigma_map.mlp.0.weight": (cond, 256), "sigma_map.mlp.0.bias": (cond,)}
        shapes |= {"sigma_map.mlp.2.weight": (cond, cond), "sigma_map.mlp.2.bias": (cond,)}
    for i in range(layers):
        block = {
            "norm1.weight": (hidden,),
            "attn_qkv.weight": (3 * hidden, hidden),
            "attn_out.weight": (hidden, hidden),
            "norm2.weight": (hidden,),
            "mlp.0.weight": (4 * hidden, hidden),
            "mlp.0.bias": (4 * hidden,),
            "mlp.2.weight": (hidden, 4 * hidden),
            "mlp.2.bias": (hidden,),
        }
        if adaln:
            block["adaLN_modulation.weight"] = (6 * hidden, cond)
            block["adaLN_modulation.bias"] = (6 * hidden,)
        shapes |= {f"blocks.{i}.{key}": shape for key, shape in block.items()}
    shapes["output_layer.norm_final.weight"] = (hidden,)
    shapes |= {"output_layer.linear.weight": (vocab, hidden), "output_layer.linear.bias": (vocab,)}
    if adaln:
        shapes["output_layer.adaLN_modulation.weight"] = (2 * hidden, cond)
        shapes["output_layer.adaLN_modulation.bias"] = (2 * hidden,)
    return shapes


def frequencies(hidden, heads):
    width = hidden // heads
    return 1.0 / (10000 ** (torch.arange(0, width, 2).float() / width))


def drawn(vocab, seed=0, *, tied=False, **sizes):
    """Tensors by their bare names, drawn as the golden ones were, the frequencies among them."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for key, shape in layout(vocab, **sizes).items():
        noise = torch.randn(shape, generator=generator)
        if "norm" in key:
            state[key] = 1 + 0.1 * noise
        elif key.endswith("bias"):
            state[key] = 0.02 * noise
        elif key.endswith("embedding"):
            state[key] = 0.5 * noise
        else:
            state[key] = (0.1 if "adaLN" in key else 0.075) * noise
        if key == "vocab_embed.embedding" or key == "sigma_map.mlp.2.bias":
            state["rotary_emb.inv_freq"] = frequencies(
                sizes.get("hidden", 16), sizes.get("heads", 2)
            )
    if tied:
        state["output_layer.linear.weight"] = state["vocab_embed.embedding"]
    return state


def golden_state(name):
    """The weights of the golden numbers, which were drawn from a seed."""
    seed, vocab = GOLDEN_SEEDS[name]
    return drawn(vocab, seed, **GOLDEN)


def golden_folder(folder, name, config, prefix=""):
    return saved(folder, golden_state(name), config, prefix)


def saved(folder, state, config=None, prefix=""):
    """A folder with these weights behind a prefix and a configuration; its name."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    named = {prefix + key: value.clone() for key, value in state.items()}
    save_file(named, folder / "model.safetensors")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def hydra(sizes=GOLDEN, **more):
    """The `model` part of a training configuration, and more beside it."""
    model = {
        "name": "tiny",
        "type": "ddit",
        "hidden_size": sizes["hidden"],
        "cond_dim": sizes["cond"],
        "length": sizes["length"],
        "n_blocks": sizes["layers"],
        "n_heads": sizes["heads"],
        "scale_by_sigma": True,
        "dropout": 0.1,
    }
    return {"model": {**model, **more.pop("model", {})}, **more}


def sedd_config(sizes=GOLDEN, tokens=50, graph="absorb", **more):
    noise = {"type": "loglinear", "sigma_min": 1e-4, "sigma_max": 20}
    given = {"tokens": tokens, "graph": {"type": graph, "file": "data"}, "noise": noise}
    return hydra(sizes, **(given | more))


def flat_config(kind, vocab, sizes=GOLDEN, **more):
    """The configuration of a network on the Hub."""
    return {
        "model_type": kind,
        "vocab_size": vocab,
        "model_length": sizes["length"],
        "hidden_dim": sizes["hidden"],
        "cond_dim": sizes["cond"],
        "n_blocks": sizes["layers"],
        "n_heads": sizes["heads"],
        "dropout": 0.1,
        **more,
    }


def forward(state, tokens, sigma, heads, *, embeds=None, sees=None, positions=None):
    """Raw outputs (B, L, K), from the description of the layout.

    Args:
        state: tensors by their bare names.
        tokens: (B, L), or None with `embeds`.
        sigma: (B,), what the network is given.
        heads: of attention.
        embeds: (B, L, hidden) instead of tokens.
        sees: (L, L) bool, whether a row sees a column; all by default.
        positions: (L,), by default in order.
    """
    x = state["vocab_embed.embedding"][tokens] if embeds is None else embeds
    batch, length, hidden = x.shape
    conditional = "sigma_map.mlp.0.weight" in state

    def linear(name, y, bias=True):
        y = y @ state[f"{name}.weight"].T
        return y + state[f"{name}.bias"] if bias else y

    def norm(name, y):
        return layer_norm(y, (hidden,), state[f"{name}.weight"], None, 1e-5)

    if conditional:
        angles = sigma[:, None].float() * 10000 ** (-torch.arange(128).float() / 128)
        emb = torch.cat([angles.cos(), angles.sin()], -1)
        c = silu(linear("sigma_map.mlp.2", silu(linear("sigma_map.mlp.0", emb))))

    def modulation(name, parts):
        if not conditional:
            return (0.0, 0.0, 1.0) * 2
        return linear(name, c)[:, None].chunk(parts, -1)

    width = hidden // heads
    positions = torch.arange(length) if positions is None else positions
    turn = positions[:, None].float() * frequencies(hidden, heads)
    cos, sin = turn.cos()[None, :, None], turn.sin()[None, :, None]

    def rotated(y):
        a, b = y[..., : width // 2], y[..., width // 2 :]
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

    for i in range(sum(key.endswith("attn_qkv.weight") for key in state)):
        name = f"blocks.{i}"
        b1, s1, g1, b2, s2, g2 = modulation(f"{name}.adaLN_modulation", 6)
        y = norm(f"{name}.norm1", x) * (1 + s1) + b1
        q, k, v = (
            linear(f"{name}.attn_qkv", y, False).view(batch, length, 3, heads, width).unbind(2)
        )
        scores = torch.einsum("bqhd,bkhd->bhqk", rotated(q), rotated(k)) * width**-0.5
        if sees is not None:
            scores = scores.masked_fill(~sees, -torch.inf)
        y = torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v).reshape(batch, length, hidden)
        x = x + g1 * linear(f"{name}.attn_out", y, False)
        y = norm(f"{name}.norm2", x) * (1 + s2) + b2
        y = linear(f"{name}.mlp.2", gelu(linear(f"{name}.mlp.0", y), approximate="tanh"))
        x = x + g2 * y
    shift, scale = modulation("output_layer.adaLN_modulation", 2)[:2]
    x = norm("output_layer.norm_final", x) * (1 + scale) + shift
    return linear("output_layer.linear", x)


#: Of a small checkpoint.
SMALL = {"hidden": 16, "cond": 8, "layers": 2, "heads": 2, "length": 8}
V = 9


def small_source(folder, kind="mdlm", state=None, prefix="backbone.", **changed):
    """A sound folder of a kind, but for what is changed in its configuration (None: left out)."""
    state = drawn(V, **SMALL) if state is None else state
    if kind == "mdlm":
        config = flat_config("mdlm", V, SMALL, time_conditioning=False)
    elif kind == "run":
        config = hydra(SMALL, parameterization="subs", time_conditioning=False)
    elif kind == "sedd":
        config = sedd_config(SMALL, V - 1)
    elif kind == "algo":
        config = hydra(SMALL, algo={"name": "duo", "time_conditioning": True})
    elif kind == "duo":
        config = flat_config("duo", V, SMALL)
    config = {**config, **changed}
    config = {key: value for key, value in config.items() if value is not None}
    return saved(folder, state, config, prefix)


def small_tokenizer(folder, size, mask=None):
    """One of `size` words, the mask among them if it is named; saved."""
    words = {f"w{i}": i for i in range(size)}
    inner = Tokenizer(models.WordLevel(words, unk_token="w0"))
    more = {} if mask is None else {"mask_token": f"w{mask}"}
    made = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="w0", **more)
    made.save_pretrained(folder)
    return str(folder)
