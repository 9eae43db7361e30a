"""Nemotron-Labs-Diffusion: its network, and what finished blocks of it see."""

import json
import math

import pytest
import torch
from plain_lm import (
    IDS,
    NEMOTRON,
    QWEN_CONFIG,
    SIZES,
    blockwise,
    logits,
    plain_forward,
    random_weights,
    write_folder,
)
from safetensors.torch import load_file

from hf_ddistill.convert import SDAR, LLaDA2, Nemotron

MASK = 5


def rope_of(width, theta, factor, trained, fast, slow):
    """YaRN's frequencies (Peng et al., 2023, arXiv:2309.00071), and its factor on cos and sin."""
    plain = theta ** (-torch.arange(0, width, 2) / width)
    turns = [
        width * math.log(trained / (beta * 2 * math.pi)) / (2 * math.log(theta))
        for beta in (fast, slow)
    ]
    low, high = max(math.floor(turns[0]), 0), min(math.ceil(turns[1]), width - 1)
    ramp = ((torch.arange(width // 2) - low) / max(high - low, 1e-3)).clamp(0, 1)
    return plain / factor * ramp + plain * (1 - ramp)


def made(folder, tied=False):
    """A folder by the layout, and a forward pass of one sequence under a mask."""
    rope = {"rope_type": "yarn", "rope_theta": 5000.0, "factor": 4.0, "beta_fast": 4.0}
    rope |= {"beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0}
    rope |= {"original_max_position_embeddings": 6, "llama_4_scaling_beta": 0.3}
    weights = random_weights(NEMOTRON, layers=2, sizes=(13, 16, 20, 4, 2, 6), tied=tied)
    config = {key: value for key, value in QWEN_CONFIG.items() if key != "rope_theta"}
    config |= {"model_type": "nemotron_labs_diffusion", "head_dim": 6, "rope_parameters": rope}
    config |= {"block_size": 4, "tie_word_embeddings": tied, "dlm_paradigm": "bidirectional"}
    frequencies = rope_of(6, 5000.0, 4.0, 6, 4.0, 1.0)

    def forward(ids, sees):
        # Of positions from the sixth on, queries are longer.
        scale = 1 + 0.3 * (1 + torch.arange(ids.shape[1]) // 6).log()
        theta, scale = SIZES | {"theta": frequencies}, scale[:, None, None]
        return plain_forward(weights, ids, sees, NEMOTRON, **theta, query_scale=scale)

    return str(write_folder(folder, config, weights)), forward


def working(length, start):
    """What is before `start` is read causally; what is from there on sees all."""
    sees = torch.tril(torch.ones(length, length, dtype=torch.bool))
    sees[start:] = True
    return sees


@pytest.mark.parametrize("tied", [False, True])
def test_a_nemotron_of_other_sizes_is_another_network(tied, tmp_path):
    folder, forward = made(tmp_path, tied)
    model, _ = Nemotron().read(folder)
    expected = forward(IDS, blockwise(10, 4))
    torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=1e-5)


def test_finished_blocks_are_read_in_both_directions(tmp_path):
    folder, forward = made(tmp_path)
    model, _ = Nemotron().read(folder)
    x_t = IDS.clone()
    x_t[:, 1::2] = MASK
    with torch.no_grad():
        both = model(input_ids=x_t, clean_ids=IDS).logits
        for start in (0, 4, 8):
            state = torch.cat([IDS[:, :start], x_t[:, start : start + 4]], 1)
            expected = forward(state, working(state.shape[1], start))
            here = slice(start, start + 4)
            torch.testing.assert_close(both[:, here], expected[:, here], atol=1e-5, rtol=1e-5)
            one = model(input_ids=state, finished=torch.tensor([start, start])).logits
            torch.testing.assert_close(one, expected, atol=1e-5, rtol=1e-5)
        # A column for each row.
        starts = torch.tensor([4, 8])
        some = model(input_ids=x_t, finished=starts).logits
    for row, start in enumerate(starts.tolist()):
        sees = blockwise(10, 4) & working(10, start)
        expected = forward(x_t[row : row + 1], sees)
        torch.testing.assert_close(some[row : row + 1], expected, atol=1e-5, rtol=1e-5)


def decoded_by_hand(forward, prompt, new, size=4):
    """One token a call, the surest of its block first."""
    ids = torch.cat([prompt, torch.full((1, new), MASK)], 1)
    for start in range(prompt.shape[1] // size * size, ids.shape[1], size):
        for _ in range(int((ids[0, start : start + size] == MASK).sum())):
            state = ids[:, : start + size]
            said = forward(state, working(state.shape[1], start))[0, start:]
            said[:, MASK] = -torch.inf
            sure, tokens = said.softmax(-1).max(-1)
            place = int(sure.masked_fill(state[0, start:] != MASK, -1).argmax())
            ids[0, start + place] = tokens[place]
    return ids


@pytest.mark.parametrize(
    "cache", [{"use_cache": False}, {"use_cache": True}, {"dual_cache": True}], ids=str
)
def test_what_is_kept_of_finished_blocks_is_of_another_reading(cache, tmp_path):
    folder, forward = made(tmp_path)
    model, _ = Nemotron().read(folder)
    prompts = [IDS[:1, :5], IDS[1:, :8]]
    expected = [decoded_by_hand(forward, prompt, 16 - prompt.shape[1]) for prompt in prompts]
    more = {"unmasking": "static", "do_sample": False, **cache}
    for prompt, ids in zip(prompts, expected, strict=True):
        new = 16 - prompt.shape[1]
        assert torch.equal(model.generate(prompt, max_new_tokens=new, **more), ids)
    # Rows that stand at different blocks.
    both = torch.zeros(2, 8, dtype=torch.int64)
    both[0, 3:], both[1] = prompts[0][0], prompts[1][0]
    real = torch.ones_like(both)
    real[0, :3] = 0
    out = model.generate(both, attention_mask=real, max_new_tokens=8, **more)
    assert torch.equal(out[0, 3:], expected[0][0, :13]) and torch.equal(out[1], expected[1][0])


def test_how_finished_blocks_are_read_is_lost_on_the_way(tmp_path):
    folder, _ = made(tmp_path / "theirs")
    model, _ = Nemotron().read(folder)
    model.save_pretrained(tmp_path / "ours")
    assert type(model).from_pretrained(tmp_path / "ours").config.causal_context
    Nemotron().write(model, tmp_path / "back")
    assert Nemotron().read(str(tmp_path / "back"))[0].config.causal_context
    theirs, back = (load_file(tmp_path / name / "model.safetensors") for name in ("theirs", "back"))
    assert all(torch.equal(back[key], theirs[key]) for key in theirs | back)
    config = json.loads((tmp_path / "theirs" / "config.json").read_text())
    written = json.loads((tmp_path / "back" / "config.json").read_text())
    assert {key: written[key] for key in config if key != "rope_theta"} == config


@pytest.mark.parametrize("kind", [SDAR, LLaDA2])
def test_a_form_of_another_reading_takes_a_causal_context(kind, tmp_path):
    kind.example(tmp_path)
    model, _ = kind().read(str(tmp_path))
    model.config.causal_context = True
    with pytest.raises(ValueError, match="reads finished blocks causally, and .* both directions"):
        kind().write(model, tmp_path / "out")
