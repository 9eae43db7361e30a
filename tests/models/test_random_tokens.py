"""Masked language models whose noise is random tokens, too."""

from __future__ import annotations

import json
import math

import pytest
import torch
from cli_runs import run
from masked_lm_families import masked_lm

from hf_ddistill.denoisers import NetworkDenoiser
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.evaluation import likelihood_bound
from hf_ddistill.hub import load_model
from hf_ddistill.models import as_denoiser
from hf_ddistill.models.held import Held
from hf_ddistill.models.random_tokens import enter_random_tokens
from hf_ddistill.parameterizations import GivenOthers, Subs
from hf_ddistill.processes import Absorbing, Hybrid
from hf_ddistill.schedules import LogLinear
from hf_ddistill.shapes import LOG_ZERO


@pytest.fixture
def teacher(tmp_path):
    model, tokenizer = masked_lm("bert", tmp_path)
    for each in (model, tokenizer):
        each.save_pretrained(tmp_path / "teacher")
    ids = tokenizer.convert_tokens_to_ids(list("acdefghik"))
    rows = [{"input_ids": [2, *ids[i : i + 6], 3]} for i in range(3)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return model, tokenizer


def test_noise_puts_special_tokens_in_the_place_of_letters(teacher):
    model, tokenizer = teacher
    enter_random_tokens(model, 0.4, tokenizer)
    denoiser = as_denoiser(model, tokenizer=tokenizer)
    law, special = denoiser.diffusion.process.limit(), torch.tensor(tokenizer.all_special_ids)
    mask, letters = tokenizer.mask_token_id, model.config.vocab_size - len(special)
    assert law[mask] == pytest.approx(0.6)
    assert law[special].sum() == law[mask] and law.max() == law[mask]
    assert denoiser.parameterization.seen == pytest.approx(math.log(1 + letters))
    x_t = torch.tensor([[2, 7, mask, 9, 3]])
    found = denoiser(x_t, 0.5).log_conditional[0].exp()
    assert not found[[1, 2, 3]][:, special].any()
    torch.testing.assert_close(found[2], as_masks(model, x_t)[2])
    assert (found[1] > 0).sum() == letters  # another token may stand behind what is seen


def as_masks(model, x_t):
    """What the logits say at a mask, of letters alone."""
    with torch.no_grad():
        logits = model(input_ids=x_t).logits[0]
    held = [*Held.of(model.config).tokens, model.config.mask_token_id]
    return logits.index_fill(-1, torch.tensor(held), -torch.inf).softmax(-1)


def test_the_command_line_distils_what_it_has_not_measured(teacher, tmp_path, capsys):
    named = [tmp_path / "teacher", "--data", tmp_path / "rows.jsonl", "--json"]
    bounds = []
    for i, more in enumerate(([], ["--random-tokens", 0.2])):
        assert run("evaluate", *named, tmp_path / f"{i}.json", "--bound", "--draws", 8, *more) == 0
        bounds += [json.loads((tmp_path / f"{i}.json").read_text())["rows"][0]["nelbo"]]
    assert bounds[0] != pytest.approx(bounds[1], rel=1e-3)
    how = ["--steps", 1, "--batch-size", 3, "--student-steps", 2, "--cpu", "--noise-dim", 2]
    how += ["--teacher", *named[:-1], "--output", tmp_path / "student", "--random-tokens", 0.2]
    assert run("distill", *how) == 0
    entry = load_model(str(tmp_path / "student")).config.discrete_diffusion
    assert entry["process"]["uniform"] == 0.2 and entry["parameterization"]["seen"] > 1
    capsys.readouterr()
    assert (
        run("distill", *how[:-3], tmp_path / "next", *how[-2:], "--teacher", tmp_path / "student")
        == 2
    )
    assert "cannot be chosen" in capsys.readouterr().err


@pytest.mark.parametrize("share", [0.0, 0.1, 0.9])
def test_an_exact_network_explains_its_data_better_under_one_noise(share):
    """Of letters that do not hang on each other the bound is -log p whatever the noise: in small
    steps of one letter each the reverse is exact."""
    letters, special, mask = 4, 0, 5
    law = torch.tensor([0.0, 0.5, 0.3, 0.15, 0.05, 0.0])
    trained = 0.1 / letters + 0.1 * torch.eye(6)  # BERT's: p(x_t | x_0), up to masks
    trained[:, mask] = 0.8

    def network(x_t, t):
        return (law * trained.T[x_t]).log().clamp_min(LOG_ZERO)

    process, reading = Absorbing(6, mask), Subs()
    if share:
        process = Hybrid(6, share, mask, constant=True, left_out=[special])
        reading = GivenOthers(seen=math.log(1 + letters))
    denoiser = NetworkDenoiser(network, Diffusion(process, LogLinear()), reading)
    x_0 = torch.multinomial(law, 6000, True, generator=torch.Generator().manual_seed(0))
    x_0 = x_0.view(500, 12)
    bound = likelihood_bound(denoiser, [{"input_ids": x_0}], draws=8)
    expected = -law[x_0].log().mean().item()
    assert bound.nats == pytest.approx(expected, abs=max(3 * bound.standard_error, 0.002))
    assert bound.standard_error < 0.05


def test_a_share_of_a_model_without_a_mask_is_chosen(teacher):
    with pytest.raises(ValueError, match="nowhere which token is the mask"):
        enter_random_tokens(teacher[0], 0.1)
    teacher[0].config.mask_token_id = 4
    with pytest.raises(ValueError, match=r"in \(0, 1\), got 1"):
        enter_random_tokens(teacher[0], 1.0)
