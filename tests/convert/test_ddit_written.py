"""What is written in others' forms, and what they have no place for."""

from __future__ import annotations

import json

import pytest
import torch
from dit_checkpoints import V, small_source, small_tokenizer
from safetensors.torch import load_file

from hf_ddistill import DDiTConfig, DDiTForDiscreteDiffusion, as_denoiser
from hf_ddistill.cli.main import main
from hf_ddistill.convert import BD3LM, MDLM, SDTT, SEDD, Duo
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.models import mixed_embeddings
from hf_ddistill.processes import Absorbing, Uniform
from hf_ddistill.schedules import Cosine, LogLinear


def student(**changed):
    config = {"vocab_size": V, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config |= {"max_position_embeddings": 8, "cond_dim": 4, "mask_token_id": V - 1}
    torch.manual_seed(0)
    return DDiTForDiscreteDiffusion(DDiTConfig(**{**config, **changed})).eval()


def trained(model, process=None, schedule=None, reading=None):
    process = Absorbing(V, model.config.mask_token_id) if process is None else process
    as_denoiser(model, Diffusion(process, schedule or LogLinear()), reading)
    return model


TIMED = {"time_conditioning": True, "time_input": "sigma"}
NO_PLACE = [
    (MDLM, lambda: trained(student(noise_dim=2)), "no place for a noise input"),
    (SEDD, lambda: trained(student(num_classes=3)), "no place for classes"),
    (Duo, lambda: trained(student(position_embedding="learned")), "learned positions"),
    (SDTT, lambda: trained(student(token_shape=[2, 4])), "a grid of tokens"),
    (MDLM, lambda: trained(student(intermediate_size=8)), "not four times as wide"),
    (MDLM, lambda: trained(student(time_conditioning=True)), "this one reads t"),
    (MDLM, lambda: trained(student(**TIMED), schedule=Cosine()), "no place for a schedule"),
    (MDLM, lambda: trained(student(mask_token_id=None), Uniform(V)), "over 'uniform'"),
    (MDLM, lambda: trained(student(), reading="conditional"), "'conditional' over 'absorbing'"),
    (SDTT, lambda: trained(student(mask_token_id=2)), "this network's is 2 of 9"),
    (SEDD, lambda: trained(student()), "give scores"),
    (SEDD, lambda: trained(student(mask_token_id=1), reading="score"), "is 1 of 9"),
    (SEDD, lambda: trained(student(), None, Cosine(), "score"), "no schedule"),
    (Duo, lambda: trained(student()), "'subs' over 'absorbing'"),
    (
        Duo,
        lambda: trained(
            student(time_conditioning=True, time_input="zero", mask_token_id=None),
            Uniform(V),
            reading="given_others",
        ),
        "always 0",
    ),
    (BD3LM, lambda: trained(student()), "blocks of a DDiT"),
]


@pytest.mark.parametrize(("kind", "made", "said"), NO_PLACE, ids=[each[2] for each in NO_PLACE])
def test_what_a_form_has_no_place_for_is_written(kind, made, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        kind().write(made(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@torch.no_grad()
def test_a_student_without_a_time_is_another_network_where_it_is_written(tmp_path):
    model = student()
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn(parameter.shape))
    MDLM().write(trained(model), tmp_path)
    again, _ = MDLM().read(str(tmp_path))
    x = torch.arange(8)[None]
    torch.testing.assert_close(again(x).logits, model(x).logits, rtol=0, atol=1e-6)
    assert "sigma_map.mlp.0.weight" in {
        key.removeprefix("backbone.") for key in load_file(tmp_path / "model.safetensors")
    }


def test_the_command_does_not_bring_a_network_there_and_back(tmp_path, capsys):
    place = small_source(tmp_path / "source")
    small_tokenizer(tmp_path / "source", V - 1)
    assert main(["convert", place, str(tmp_path / "ours")]) == 0
    assert main(["export", str(tmp_path / "ours"), str(tmp_path / "back"), "--to", "mdlm"]) == 0
    theirs, back = (load_file(tmp_path / at / "model.safetensors") for at in ("source", "back"))
    assert set(theirs) == set(back) and all(torch.equal(theirs[key], back[key]) for key in back)
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    assert config["model_type"] == "mdlm" and "AutoConfig" in config["auto_map"]
    assert main(["convert", str(tmp_path / "back"), str(tmp_path / "again")]) == 0
    duo = ["export", str(tmp_path / "ours"), "--to", "duo"]
    assert main([*duo, "--output", str(tmp_path / "duo")]) == 2
    assert "over 'absorbing'" in capsys.readouterr().err and not (tmp_path / "duo").exists()
    assert main(duo) == 2
    assert "is missing: give FOLDER, or --output" in capsys.readouterr().err


def test_shares_of_other_shapes_are_mixed():
    model = student()
    for shares, tokens in (
        (torch.ones(1, 2, V - 1), None),
        (torch.ones(2, V), None),
        (torch.ones(1, 2, 3), torch.zeros(1, 2, 2, dtype=torch.long)),
    ):
        with pytest.raises(ValueError, match="shares has shape"):
            mixed_embeddings(model, shares, tokens)
