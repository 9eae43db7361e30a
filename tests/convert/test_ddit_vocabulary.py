"""Which token is the mask of a converted DiT, what its tokenizer says of it, and what else a
configuration enters."""

from __future__ import annotations

import pytest
import torch
from dit_checkpoints import SMALL, V, drawn, hydra, saved, small_source, small_tokenizer
from safetensors.torch import save_file
from transformers import AutoTokenizer

from hf_ddistill import DiscreteDiffusionPipeline, as_denoiser
from hf_ddistill.cli.main import main
from hf_ddistill.convert import MDLM, Duo, recognise
from hf_ddistill.processes import Uniform


@pytest.mark.parametrize(("size", "mask"), [(V - 1, None), (V, 3), (V, None)])
def test_a_tokenizer_does_not_name_the_mask_of_the_model(size, mask, tmp_path, capsys):
    """Of one with a token less, the mask becomes a new one; of one without, the token named."""
    place = small_source(tmp_path / "source")
    small_tokenizer(tmp_path / "source", size, mask)
    due = {None: V - 1 if size < V else 4}.get(mask, mask)
    more = ["--mask-token-id", "4"] if (size, mask) == (V, None) else []
    assert main(["convert", place, str(tmp_path / "out"), *more]) == 0
    assert f"mask token {due}" in capsys.readouterr().out
    kept = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert kept.mask_token_id == due and len(kept) == V
    assert kept.convert_tokens_to_ids("w2") == 2
    pipe = DiscreteDiffusionPipeline.from_pretrained(tmp_path / "out")
    drawn_ = pipe(batch_size=2, num_inference_steps=2, generator=torch.Generator().manual_seed(0))
    assert (drawn_.sequences != due).all()


def test_uniform_states_get_a_mask_from_their_tokenizer(tmp_path):
    place = small_source(tmp_path / "source", "duo")
    small_tokenizer(tmp_path / "source", V, mask=3)
    model, kept = Duo().read(place)
    assert model.config.mask_token_id is None and kept.mask_token_id == 3
    assert as_denoiser(model, tokenizer=kept).diffusion.process == Uniform(V)


def test_udlms_runs_are_read_as_masks(tmp_path, capsys):
    config = hydra(SMALL, parameterization="d3pm", diffusion="uniform", time_conditioning=True)
    place = saved(tmp_path / "a", drawn(V, **SMALL), config, "backbone.")
    assert recognise(place) is Duo and "UDLM" in Duo.evidence(place)
    model, _ = Duo().read(place)
    said = as_denoiser(model)
    assert said.diffusion.process == Uniform(V) and said.reads_time == "sigma"
    assert said.parameterization.id == "given_others"
    with pytest.raises(ValueError, match="uniform states; --kind duo reads it"):
        MDLM().read(place)


def test_a_configuration_inside_of_another_is_not_found(tmp_path):
    """As the mixin of the Hub saves the arguments of a class."""
    inner = hydra(SMALL, parameterization={"name": "x"}, time_conditioning=False)
    place = saved(tmp_path, drawn(V, **SMALL), {"config": inner, "tokenizer": None}, "backbone.")
    assert recognise(place).id == "sdtt"
    assert recognise(place)().read(place)[0].config.hidden_size == 16


@pytest.mark.parametrize(
    ("config", "mask"),
    [
        ({"data": {"tokenizer_name_or_path": "bert-base-uncased"}}, 103),
        ({"data": {"tokenizer_name_or_path": "gpt2"}}, 119),
        ({"data": {"tokenizer_name_or_path": "text8"}}, 4),
        ({"mask_index": 7}, 7),
        ({"mask_index": 0}, 0),
        ({}, 119),
    ],
)
def test_the_mask_of_a_known_tokenizer_is_the_last(config, mask, tmp_path):
    sizes = {**SMALL, "layers": 1}
    config = hydra(sizes, parameterization="subs", **config)
    model, _ = MDLM().read(saved(tmp_path, drawn(120, **sizes), config, "backbone."))
    assert model.config.mask_token_id == mask


@pytest.mark.parametrize(
    ("name", "sampler"),
    [
        ("mdlm", None),
        ("remdm-cap", {"type": "remdm", "strategy": "cap", "eta": 0.1}),
        ("remdm-conf", {"type": "remdm_confidence", "strategy": "rescale", "eta": 1.0}),
        (
            "remdm-loop",
            {"type": "remdm_loop", "strategy": "cap", "eta": 0.1, "alpha": 0.8}
            | {"begins": 0.4, "ends": 0.9},
        ),
    ],
)
def test_remdms_sampler_is_not_entered(name, sampler, tmp_path):
    sampling = {"sampler": name, "eta": 0.1, "t_on": 0.6, "t_off": 0.1, "alpha_on": 0.8, "steps": 6}
    model, _ = MDLM().read(small_source(tmp_path, "run", sampling=sampling))
    entered = model.config.discrete_diffusion.get("sampler")
    assert entered == sampler if sampler is None else entered == pytest.approx(sampler)
    assert model.config.discrete_diffusion.get("num_inference_steps") == (sampler and 6)


def test_a_file_is_told_from_the_folder_that_it_lies_in(tmp_path):
    """A file that is named is read with the configuration beside it, where it has none itself."""
    place = small_source(tmp_path / "a", mask_token_id=3)
    save_file(drawn(V, 5, **SMALL), tmp_path / "a" / "second.safetensors")
    model, _ = MDLM().read(str(tmp_path / "a" / "second.safetensors"))
    other, _ = MDLM().read(place)
    assert model.config.mask_token_id == other.config.mask_token_id == 3
    assert not torch.equal(model.lm_head.weight, other.lm_head.weight)
