"""GIDD's DiTs under masks and uniform tokens: network, process, steps, and the way back."""

from __future__ import annotations

import json

import pytest
import torch
from dit_checkpoints import drawn, forward, saved
from safetensors.torch import load_file

from hf_ddistill import as_denoiser
from hf_ddistill.convert import GiddHybrid, recognise
from hf_ddistill.models import load_masked_lm
from hf_ddistill.samplers import Ancestral

SIZES = {"hidden": 12, "cond": 6, "heads": 3, "layers": 2, "length": 10}
VOCAB = 17


def config(share, **more):
    return {
        "model_type": "dit",
        "vocab_size": VOCAB,
        "hidden_size": 12,
        "timestep_cond_dim": 6,
        "num_attention_heads": 3,
        "num_hidden_layers": 2,
        "max_seq_len": 10,
        "attention_dropout": 0.0,
        "p_uniform": share,
        "t_eps": 1e-4,
        **more,
    }


def kept(heads=3, hidden=12, length=10):
    """What theirs keeps of rotary positions."""
    turned = 10000.0 ** (-torch.arange(0, hidden // heads, 2) / (hidden // heads))
    angles = torch.arange(length)[:, None] * torch.cat([turned, turned])
    cos, sin = torch.ones(1, length, 3, 1, 4), torch.zeros(1, length, 3, 1, 4)
    cos[0, :, :2, 0], sin[0, :, :2, 0] = angles.cos()[:, None], angles.sin()[:, None]
    return {"rotary_emb.cos_cached": cos, "rotary_emb.sin_cached": sin}


def shares(t, share, mask):
    """alpha_t and beta_t pi_t (GIDD, Eq. 8 with gamma 1), as vectors over the vocabulary."""
    swell = 2 * share / (1 - share) * (t * (1 - t)) ** 0.5
    pi = torch.full((VOCAB,), swell / (VOCAB - 1)).double()
    pi[mask] = t
    return (1 - t) / (1 + swell), pi / (1 + swell)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.2])
@pytest.mark.parametrize("mask", [16, 4])
@torch.no_grad()
def test_gidds_steps_are_other_ones(share, mask, tmp_path):
    state = drawn(VOCAB, 3, **SIZES)
    del state["rotary_emb.inv_freq"]
    theirs = config(share, mask_token_id=mask)
    source = saved(tmp_path / "source", state | kept(), theirs)
    assert recognise(source) is GiddHybrid
    GiddHybrid().read(source)[0].save_pretrained(tmp_path / "ours")
    denoiser = as_denoiser(load_masked_lm(tmp_path / "ours").eval())
    assert denoiser.reads_time == "t"
    draw = torch.Generator().manual_seed(1)
    x_t = torch.randint(0, VOCAB, (2, 10), generator=draw)
    x_t[:, ::3] = mask
    t, s = 0.7, 0.4
    logits = forward(state, x_t, torch.full((2,), t), 3)
    raw = denoiser.network(x_t, torch.full((2,), t))
    torch.testing.assert_close(raw, logits, atol=1e-5, rtol=0)
    # Their step: q(x_s | x_t, x) with the softmax of all tokens but the mask for x.
    logits[..., mask] = -1e6
    x = logits.double().softmax(-1)
    (alpha_t, pi_t), (alpha_s, pi_s) = shares(t, share, mask), shares(s, share, mask)
    q_s, q_t = alpha_s * x + pi_s, alpha_t * x + pi_t
    onward = pi_t - alpha_t / alpha_s * pi_s
    jump = alpha_t / alpha_s * torch.eye(VOCAB).double()[x_t] + onward[x_t][..., None]
    expected = jump * q_s / q_t.gather(-1, x_t[..., None])
    said = denoiser(x_t, torch.full((2,), t))
    found = Ancestral().rule(said, denoiser.diffusion, x_t, torch.tensor(s), torch.tensor(t))
    asked = torch.ones_like(x_t, dtype=torch.bool) if share else x_t == mask
    torch.testing.assert_close(found.double()[asked], expected[asked], atol=1e-5, rtol=0)


def test_tensors_or_fields_differ_after_a_round_trip(tmp_path):
    state = drawn(VOCAB, 3, **SIZES)
    del state["rotary_emb.inv_freq"]
    theirs = config(0.1, mask_token_id=4)
    model, _ = GiddHybrid().read(saved(tmp_path / "source", state | kept(), theirs))
    GiddHybrid().write(model, tmp_path / "back")
    back = load_file(tmp_path / "back" / "model.safetensors")
    assert back.keys() == {**state, **kept()}.keys()
    assert all(torch.equal(back[key], value) for key, value in state.items())
    assert all(torch.allclose(back[key], value, atol=1e-6) for key, value in kept().items())
    written = json.loads((tmp_path / "back" / "config.json").read_text())
    left = {"model_type", "t_eps"}
    assert {key: theirs[key] for key in theirs if key not in left} == {
        key: value for key, value in written.items() if key in theirs
    }
    assert GiddHybrid().read(str(tmp_path / "back"))[0].config.discrete_diffusion == (
        model.config.discrete_diffusion
    )


@pytest.mark.parametrize("share", [None, True, 1.0, -0.1, "x"])
def test_a_share_that_is_none_is_read(share, tmp_path):
    state = drawn(VOCAB, 3, **SIZES)
    source = saved(tmp_path, state, config(share, mask_token_id=4))
    with pytest.raises(ValueError, match=r"for p_uniform, a share below 1"):
        GiddHybrid().read(source)
