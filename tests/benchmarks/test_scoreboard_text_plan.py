"""What the noise of a student carries in one call, where it is known."""

from __future__ import annotations

import math

import pytest
import torch
from scoreboard_text_networks import entry
from scoreboard_text_plan import laws, main, pairs, reach, told

from hf_ddistill import DDiTConfig, DDiTForDiscreteDiffusion, as_denoiser

pytestmark = pytest.mark.usefixtures("registries_of_their_own")


def student(per: str = "position", mixes: bool = True) -> DDiTForDiscreteDiffusion:
    torch.manual_seed(0)
    config = DDiTConfig(
        vocab_size=28,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=1,
        time_conditioning=False,
        mask_token_id=27,
        noise_dim=2,
        noise_per=per,
        discrete_diffusion=entry(),
    )
    model = DDiTForDiscreteDiffusion(config).eval()
    # A fresh one puts out the same law whatever it is told.
    for name, weight in model.requires_grad_(False).named_parameters():
        if weight.ndim == 2:
            torch.nn.init.normal_(weight, std=0.5 if mixes or ".out." not in name else 0.0)
    return model


def test_a_bit_that_all_positions_share_is_what_the_noise_tells():
    law = torch.tensor([[[1.0, 0.0]] * 4, [[0.0, 1.0]] * 4]).double()
    assert told(law) == pytest.approx(math.log(2))
    assert [pairs(law, far) for far in (1, 3)] == pytest.approx([math.log(2)] * 2)


def test_tokens_that_know_nothing_of_each_other_tell_nothing():
    law = torch.tensor([0.25, 0.75]).double().expand(3, 8, 2)
    assert told(law) == pytest.approx(0) and pairs(law, 2) == pytest.approx(0, abs=1e-12)


def test_noise_of_a_position_reaches_others_only_through_attention():
    generator = torch.Generator().manual_seed(0)
    for mixes in (False, True):
        denoiser = as_denoiser(student(mixes=mixes))
        masks = denoiser.diffusion.prior((4, 8))
        noise = denoiser.fresh_noise(masks, generator)["noise"]
        assert laws(denoiser, noise, 8).sum(-1) == pytest.approx(torch.ones(4, 8).double())
        far = reach(denoiser, noise, 8, generator)
        assert far.shape == (4,) and far[0] > 0 and (float(far[1:].sum()) > 1e-9) == mixes


def test_the_command_tells_of_both_kinds_of_noise(monkeypatch, tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"{chr(97 + i)} speech " + "and so on " * 9 for i in range(20)))
    for per in ("position", "sequence"):
        student(per).save_pretrained(tmp_path / per)
    folders = [str(tmp_path / per) for per in ("position", "sequence")]
    more = ["--text", str(text), "--length", "16", "--draws", "4"]
    more += ["--untrained", "law_matching_weak"]
    monkeypatch.setattr("sys.argv", ["", *folders, *more])
    main()
    fresh, one, other, real = capsys.readouterr().out.splitlines()
    assert fresh.startswith("law_matching_weak, untrained: told")
    assert "reach 1:" in one and other.startswith("sequence: told") and "reach" not in other
    assert real.startswith("text: pairs 1:")
