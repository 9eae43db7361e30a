"""BD3LM's blocks: the published numbers, the masks in other sizes, decoding, and the way back."""

from __future__ import annotations

import json

import pytest
import torch
from dit_checkpoints import drawn, flat_config, forward, golden_state, hydra, saved
from golden import golden
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM
from transformers.cache_utils import DynamicCache

from hf_ddistill import DiscreteDiffusionPipeline, as_denoiser
from hf_ddistill.convert import BD3LM, CausalLM, recognise
from hf_ddistill.models import DDiTDecoderConfig
from hf_ddistill.objectives.likelihood_bound import nelbo_density

BUFFERS = {"sampling_eps_min": torch.tensor(1e-3), "sampling_eps_max": torch.tensor(0.999)}
SIZES = {"hidden": 16, "cond": 8, "layers": 2, "heads": 2, "length": 12}
OF_BLOCKS = {"cross_attn": True, "adaln": True, "causal": False, "attn_backend": "flex"}
OF_BLOCKS |= {"time_conditioning": False, "var_min": True}


def close(found, expected, atol=1e-5):
    torch.testing.assert_close(found.double(), expected.double(), rtol=0, atol=atol)


def behind(state):
    return {**BUFFERS, **{f"backbone.{key}": value for key, value in state.items()}}


def rule(length, size):
    """(2 L, 2 L): what a row of [x_t | x_0] sees, as the paper's figure has it."""
    block = torch.arange(length) // size
    same, before = block[:, None] == block, block[:, None] > block
    up_to = same | before
    return torch.cat([torch.cat([same, before], 1), torch.cat([same & False, up_to], 1)])


@torch.no_grad()
def test_bd3lms_numbers_are_lost(tmp_path):
    g = golden("bd3lm")
    assert torch.equal(rule(16, 4), g["block_diff_mask"])
    config = flat_config("bd3lm", 51, block_size=4, **OF_BLOCKS)
    source = saved(tmp_path / "source", behind(golden_state("bd3lm")), config)
    assert recognise(source) is BD3LM
    model, _ = BD3LM().read(source)
    model.save_pretrained(tmp_path / "out")
    opened = AutoModelForMaskedLM.from_pretrained(tmp_path / "out")
    x_t, x_0 = g["x_t"], g["x0"]
    close(opened(x_t, clean_ids=x_0).logits, g["logits_train_concat_xt_x0"])
    close(opened(x_t[:, :8]).logits, g["logits_sample_mode_first8"])
    said = as_denoiser(opened)
    assert said.diffusion.process.mask_token_id == 50
    log_p = g["logits_train_concat_xt_x0"].clone()
    log_p[..., 50] = -torch.inf
    masked = x_t == 50
    t = torch.tensor([0.3, 0.6, 0.9])
    conditional = said(x_t, t, clean_ids=x_0)
    close(conditional.log_conditional[masked][:, :-1], log_p.log_softmax(-1)[masked][:, :-1])
    # BD3LM weighs a masked token by 1 / t.
    density = nelbo_density(conditional, said.diffusion, x_0, x_t, t)
    own = log_p.log_softmax(-1).gather(-1, x_0[..., None])[..., 0]
    close(density, torch.where(masked, -own / t[:, None], 0.0), atol=1e-4)


@pytest.mark.parametrize("size", [1, 3, 5, 12])
@pytest.mark.parametrize("adaln", [True, False], ids=["modulated", "plain"])
@torch.no_grad()
def test_blocks_of_another_size_see_something_else(size, adaln, tmp_path):
    state = drawn(11, 3, adaln=adaln, **SIZES)
    config = flat_config("bd3lm", 11, SIZES, block_size=size, **{**OF_BLOCKS, "adaln": adaln})
    model, _ = BD3LM().read(saved(tmp_path, behind(state), config))
    x_0 = torch.randint(0, 10, (2, 12), generator=torch.Generator().manual_seed(0))
    x_t = x_0.masked_fill(torch.arange(24).view(2, 12) % 3 != 0, 10)
    zero, twice = torch.zeros(2), torch.arange(12).repeat(2)
    both = forward(state, torch.cat([x_t, x_0], 1), zero, 2, sees=rule(12, size), positions=twice)
    close(model(x_t, clean_ids=x_0).logits, both[:, :12])
    alone = forward(state, x_t, zero, 2, sees=rule(12, size)[12:, 12:])
    close(model(x_t).logits, alone)
    # With a cache, block by block, as decoding goes.
    blocks = [slice(i, min(i + size, 12)) for i in range(0, 12, size)]
    cache = DynamicCache()
    parts = [model(x_t[:, each], cache=cache).logits for each in blocks]
    close(torch.cat(parts, 1), alone)


def test_blocks_are_not_trained_by_what_they_answer(tmp_path):
    """With activations kept or computed again, and by either attention, gradients are the same."""
    config = flat_config("bd3lm", 11, SIZES, block_size=3, **{**OF_BLOCKS, "dropout": 0.0})
    model, _ = BD3LM().read(saved(tmp_path, behind(drawn(11, **SIZES)), config))
    x_0 = torch.randint(0, 10, (2, 12), generator=torch.Generator().manual_seed(0))
    masked = torch.arange(24).view(2, 12) % 3 != 0
    x_t, labels = x_0.masked_fill(masked, 10), x_0.masked_fill(~masked, -100)
    gradients = []
    for again, attention in ((False, "sdpa"), (True, "sdpa"), (False, "eager")):
        model.activation_checkpointing_enable() if again else None
        model.set_attn_implementation(attention)
        model.zero_grad()
        model.train()(x_t, clean_ids=x_0, labels=labels).loss.backward()
        gradients.append(model.lm.model.layers[0].attn.qkv.weight.grad.clone())
    assert gradients[0].abs().max() > 1e-4
    for other in gradients[1:]:
        close(other, gradients[0], atol=1e-6)


def test_a_written_network_is_another_one(tmp_path):
    config = flat_config("bd3lm", 11, SIZES, block_size=3, **OF_BLOCKS)
    source = saved(tmp_path / "source", behind(drawn(11, **SIZES)), config)
    model, _ = BD3LM().read(source)
    BD3LM().write(model, tmp_path / "back")
    theirs, ours = (load_file(tmp_path / at / "model.safetensors") for at in ("source", "back"))
    assert set(theirs) == set(ours)
    assert all(torch.equal(theirs[key], ours[key]) for key in theirs)
    back = json.loads((tmp_path / "back" / "config.json").read_text())
    assert {key: back[key] for key in config if key != "attn_backend"} == {
        key: value for key, value in config.items() if key != "attn_backend"
    }
    again, _ = BD3LM().read(str(tmp_path / "back"))
    assert again.config.to_dict() == model.config.to_dict()


def test_a_converted_folder_needs_more_to_decode(tmp_path):
    config = flat_config("bd3lm", 11, SIZES, block_size=3, **OF_BLOCKS)
    model, _ = BD3LM().read(saved(tmp_path / "source", behind(drawn(11, **SIZES)), config))
    model.save_pretrained(tmp_path / "out")
    pipe = DiscreteDiffusionPipeline.from_pretrained(tmp_path / "out")
    prompt = torch.tensor([[1, 2, 3]])
    found = pipe(input_ids=prompt, max_new_tokens=6, generator=torch.Generator().manual_seed(0))
    assert found.sequences.shape == (1, 9) and (found.sequences != 10).all()


def test_a_run_with_blocks_is_read_as_another_kind(tmp_path):
    algo = {"name": "bd3lm", "cross_attn": True, "causal_attention": False}
    config = hydra(SIZES, block_size=4, algo=algo | {"time_conditioning": False})
    source = saved(tmp_path / "a", drawn(11, **SIZES), config, "backbone.")
    kind = recognise(source)
    assert kind is BD3LM and "algo" in kind.evidence(source)
    model, _ = kind().read(source)
    assert model.config.block_size == 4 and "trained_times" not in model.config.discrete_diffusion


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"causal": True}, "autoregressive"),
        ({"cross_attn": False}, "no blocks, and --kind mdlm"),
        ({"time_conditioning": True}, "without a time"),
        ({"block_size": None}, "lacks block_size"),
        ({"block_size": 0}, "gives 0 for block_size"),
        ({"vocab_size": None}, "lacks vocab_size"),
        ({"n_heads": 4}, "heads of 8 channels"),
    ],
)
def test_what_blocks_have_not_is_read(changed, said, tmp_path):
    config = flat_config("bd3lm", 11, SIZES, block_size=3, **OF_BLOCKS) | changed
    source = saved(tmp_path, behind(drawn(11, **SIZES)), config)
    with pytest.raises(ValueError, match=said):
        BD3LM().read(source)


def test_the_decoder_is_no_causal_model(tmp_path):
    config = flat_config("bd3lm", 11, SIZES, block_size=1, **OF_BLOCKS)
    model, _ = BD3LM().read(saved(tmp_path, behind(drawn(11, **SIZES)), config))
    ids = torch.arange(10)[None]
    close(model.lm(ids).logits, model(ids).logits)
    model.lm.save_pretrained(tmp_path / "lm")
    opened = AutoModelForCausalLM.from_pretrained(tmp_path / "lm")
    assert opened.generate(ids[:, :2], max_new_tokens=4, do_sample=False).shape == (1, 6)
    with pytest.raises(ValueError, match="DDiTForCausalLM, which no causal model of"):
        CausalLM().write(model, tmp_path / "exported")
    for name, value in (("noise_dim", 2), ("position_embedding", "learned")):
        with pytest.raises(ValueError, match=f"{name}="):
            DDiTDecoderConfig(vocab_size=5, **{name: value})
    with pytest.raises(ValueError, match="reads no time"):
        DDiTDecoderConfig(vocab_size=5, time_conditioning=True)
