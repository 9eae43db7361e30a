"""Checkpoints of other sizes, masks, names and containers than the published ones: each network is
computed once more by the layout's description, and comes back as it was."""

from __future__ import annotations

import json
import random

import pytest
import torch
from dit_checkpoints import drawn, flat_config, forward, frequencies, hydra, saved, sedd_config
from safetensors.torch import load_file, save_file

from hf_ddistill import as_denoiser
from hf_ddistill.convert import BD3LM, MDLM, SDTT, SEDD, Converter, Duo, recognise
from hf_ddistill.models import load_masked_lm

PREFIXES = ("", "backbone.", "backbone.backbone.", "_orig_mod.", "backbone._orig_mod.", "module.")
CONTAINERS = ("whole", "shards", "pickle", "average")


def in_container(folder, name, state, config):
    """The same tensors as one file, as shards, in a pickle, or as the moving average of a run."""
    folder.mkdir()
    state = {key: value.clone() for key, value in state.items()}
    if name == "whole":
        save_file(state, folder / "model.safetensors")
    elif name == "shards":
        files = {key: f"model-{i % 2}.safetensors" for i, key in enumerate(state)}
        for file in set(files.values()):
            save_file({key: state[key] for key in state if files[key] == file}, folder / file)
        index = json.dumps({"weight_map": files})
        (folder / "model.safetensors.index.json").write_text(index)
    elif name == "pickle":
        torch.save(state, folder / "pytorch_model.bin")
    else:
        learned = [key for key in state if not key.endswith("inv_freq")]
        raw = {key: value + (key in learned) for key, value in state.items()}
        average = {"shadow_params": [state[key] for key in learned], "decay": 0.9999}
        torch.save({"state_dict": raw, "ema": average, "epoch": 3}, folder / "best.ckpt")
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def drawn_case(seed):
    """Kind, configuration, vocabulary, mask, sizes, time input, drawn from a seed."""
    draw = random.Random(seed)
    heads = draw.choice([1, 2, 3])
    sizes = {"hidden": heads * draw.choice([4, 8]), "cond": draw.choice([4, 12]), "heads": heads}
    sizes |= {"layers": draw.choice([1, 2, 3]), "length": draw.choice([6, 10])}
    vocab, kind = draw.randint(5, 40), draw.choice(["sedd", "mdlm", "run", "duo", "sdtt"])
    timed, mask = draw.random() < 0.5, vocab - 1
    if kind == "sedd":
        graph = draw.choice(["absorb", "uniform"])
        mask = mask if graph == "absorb" else None
        scaled = {"scale_by_sigma": graph == "absorb" and draw.random() < 0.8}
        config = sedd_config(sizes, vocab - (graph == "absorb"), graph, model=scaled)
        if draw.random() < 0.5:
            config["noise"] = {"type": "geometric", "sigma_min": 1e-3, "sigma_max": 5}
        return "sedd", config, vocab, mask, sizes, "sigma"
    if kind == "duo":
        return "duo", flat_config("duo", vocab, sizes, causal=False), vocab, None, sizes, "sigma"
    time = "sigma" if timed else "zero"
    if kind == "sdtt":
        config = hydra(sizes, parameterization={"name": "x"}, time_conditioning=timed)
        return "sdtt", config, vocab, mask, sizes, time
    if draw.random() < 0.6:
        mask = draw.randrange(vocab)
    if kind == "mdlm":
        config = flat_config("mdlm", vocab, sizes, time_conditioning=timed, mask_token_id=mask)
        return "mdlm", config, vocab, mask, sizes, time
    config = hydra(sizes, parameterization="subs", time_conditioning=timed, mask_index=mask)
    return "mdlm", config, vocab, mask, sizes, time


@pytest.mark.parametrize("seed", range(16))
@torch.no_grad()
def test_a_generated_checkpoint_is_another_network(seed, tmp_path):
    kind, config, vocab, mask, sizes, time = drawn_case(seed)
    draw = random.Random(seed)
    prefix, container = draw.choice(PREFIXES), CONTAINERS[seed % 4]
    tied = seed % 3 == 0
    if tied:
        part = config.get("model", config)
        (part if isinstance(part, dict) else config)["tie_word_embeddings"] = True
    state = drawn(vocab, seed, tied=tied, **sizes)
    if tied and container == "whole":
        del state["output_layer.linear.weight"]
    named = {prefix + key: value for key, value in state.items()}
    source = in_container(tmp_path / "source", container, named, config)
    found = recognise(source)
    assert found.id == kind
    model, _ = found().read(source)
    model.save_pretrained(tmp_path / "out")
    said = as_denoiser(load_masked_lm(tmp_path / "out").eval())
    assert said.diffusion.vocab_size == vocab and said.diffusion.process.mask_token_id == mask
    assert said.reads_time == {"sigma": "sigma", "zero": None}[time]
    generator = torch.Generator().manual_seed(seed)
    x_t = torch.randint(0, vocab, (2, sizes["length"]), generator=generator)
    t = torch.rand(2, generator=generator)
    sigma = said.diffusion.schedule.sigma(t).float()
    if "output_layer.linear.weight" not in state:
        state["output_layer.linear.weight"] = state["vocab_embed.embedding"]
    read = sigma if time == "sigma" else torch.zeros(2)
    expected = forward(state, x_t, read, sizes["heads"])
    raw = said.network(x_t, sigma if time == "sigma" else None)
    torch.testing.assert_close(raw, expected, rtol=0, atol=1e-5)
    prediction = said(x_t, t).log_conditional
    assert prediction.exp().sum(-1).sub(1).abs().max() < 1e-4
    found().write(model, tmp_path / "back")
    back = load_file(tmp_path / "back" / "model.safetensors")
    due = "" if kind == "sedd" else "backbone."
    assert set(back) == {due + key for key in state}
    for key, value in state.items():
        assert torch.equal(back[due + key], value), key
    assert recognise(str(tmp_path / "back")) is found
    again, _ = found().read(str(tmp_path / "back"))
    ours, theirs = (each.config.to_dict() for each in (again, model))
    assert ours == theirs | {"dtype": None, "architectures": None}


BARE = (MDLM, SDTT, SEDD, Duo, BD3LM)
MORE = {"sedd": {"graph": "absorb"}, "bd3lm": {"block_size": 4}}


@pytest.mark.parametrize("kind", BARE, ids=lambda kind: kind.id)
@torch.no_grad()
def test_weights_alone_do_not_say_their_sizes(kind, tmp_path):
    sizes = {"hidden": 24, "cond": 12, "layers": 3, "heads": 3}
    state = drawn(13, 1, **sizes)
    file = tmp_path / "x.pth"
    torch.save({"model": {f"module.{key}": value for key, value in state.items()}}, file)
    more = MORE.get(kind.id, {})
    with pytest.raises(ValueError, match="do not say all of it: give --length"):
        kind(**more).read(str(file))
    with pytest.raises(ValueError, match="weights and says nothing of what they are: .*--kind"):
        recognise(str(file))
    model, _ = kind(length=8, **more).read(str(file))
    inner = getattr(model, "lm", model).config
    found = (inner.vocab_size, inner.hidden_size, inner.cond_dim, inner.num_hidden_layers)
    assert (*found, inner.num_attention_heads) == (13, 24, 12, 3, 3)
    assert inner.max_position_embeddings == 8
    x = torch.randint(0, 13, (2, 4), generator=torch.Generator().manual_seed(0))
    time = {} if inner.reads_time is None else {"timesteps": torch.tensor([0.3, 0.9])}
    sigma = time.get("timesteps", torch.zeros(2))
    expected = forward(state, x, sigma, 3)
    torch.testing.assert_close(model(x, **time).logits, expected, rtol=0, atol=1e-5)
    del state["rotary_emb.inv_freq"]
    torch.save(state, file)
    with pytest.raises(ValueError, match="give --length and --heads"):
        kind(**more).read(str(file))
    again, _ = kind(length=8, heads=3, **more).read(str(file))
    torch.testing.assert_close(again(x, **time).logits, expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_frequencies_of_another_base_are_taken_for_the_usual(tmp_path):
    sizes = {"hidden": 16, "cond": 8, "layers": 1, "heads": 2, "length": 8}
    state = drawn(9, **sizes)
    state["rotary_emb.inv_freq"] = 1.0 / (500.0 ** (torch.arange(0, 8, 2).float() / 8))
    source = saved(tmp_path, state, flat_config("mdlm", 9, sizes, time_conditioning=False))
    model, _ = MDLM().read(source)
    assert model.config.rope_theta == 500.0
    with pytest.raises(ValueError, match="no place for another base of its rotary"):
        MDLM().write(model, tmp_path / "back")
    state["rotary_emb.inv_freq"] = frequencies(16, 2) + 1
    source = saved(tmp_path / "no", state, flat_config("mdlm", 9, sizes, time_conditioning=False))
    with pytest.raises(ValueError, match="inv_freq that is no series"):
        MDLM().read(source)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_becomes_single_or_another_base(dtype, tmp_path):
    sizes = {"hidden": 64, "cond": 8, "layers": 1, "heads": 1, "length": 8}
    state = {key: value.to(dtype) for key, value in drawn(9, **sizes).items()}
    source = saved(tmp_path, state, flat_config("mdlm", 9, sizes, time_conditioning=False))
    model, _ = MDLM().read(source)
    assert model.dtype == dtype and model.config.rope_theta == 10000.0
    MDLM().write(model, tmp_path / "back")
    back = load_file(tmp_path / "back" / "model.safetensors")
    assert torch.equal(back["backbone.blocks.0.attn_qkv.weight"], state["blocks.0.attn_qkv.weight"])


def test_all_that_read_ddits_are_tried():
    ddits = {key for key, kind in Converter.registry.items() if "DDiT" in kind.gives}
    # No weight says which share of uniform tokens GIDD's were trained with.
    assert ddits == {kind.id for kind in BARE} | {"gidd_hybrid"}
