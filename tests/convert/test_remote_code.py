"""Folders that need no install, loaded by a process in which the package cannot be imported."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from block_models import block_model, causal
from safetensors.torch import load_file
from transformers import BertConfig, BertForMaskedLM

from hf_ddistill import DDiTConfig, DDiTForDiscreteDiffusion, Diffusion, as_denoiser
from hf_ddistill.cli.main import main
from hf_ddistill.configurable import Configurable
from hf_ddistill.convert import BD3LM, Gidd, RemoteCode, own_code, recognise
from hf_ddistill.models import (
    BlockDiffusionLM,
    GiddLM,
    NoisedMaskedLM,
    enter_sampler,
    load_masked_lm,
    sampler_of,
)
from hf_ddistill.models.held import blank_canvas
from hf_ddistill.models.sampling import Sampling
from hf_ddistill.processes import Absorbing, Kronecker, Uniform
from hf_ddistill.samplers import Ancestral, PredictorCorrector, UnmaskingSampler
from hf_ddistill.schedules import Schedule
from hf_ddistill.unmasking import Unmasking

K, LENGTH = 9, 8
#: What there is where transformers is.
THERE = {"torch", "transformers", "huggingface_hub", "safetensors", "numpy"} | {
    *sys.stdlib_module_names
}
PACKAGE = Path(own_code.__file__).parents[1]

ELSEWHERE = """
import json, sys, torch
from pathlib import Path
sys.modules |= {"hf_ddistill": None, "jaxtyping": None}  # as where neither is installed
try:
    import hf_ddistill
except ImportError:
    pass
else:
    raise AssertionError("the package is there")
from transformers import AutoModelForMaskedLM
for folder in sorted(Path(sys.argv[1]).iterdir()):
    given = torch.load(folder / "given.pt")
    model = AutoModelForMaskedLM.from_pretrained(folder, trust_remote_code=True)
    assert type(model).__module__.startswith("transformers_modules"), type(model).__module__
    found = {"logits": model(**given).logits.detach()}
    generator = torch.Generator().manual_seed(0)
    if hasattr(model, "sample"):
        found["drawn"] = model.sample(3, 5, generator=generator)
        if model.config.discrete_diffusion.get("num_inference_steps"):
            found["own"] = model.sample(2, length=LENGTH - 1, generator=generator)
        try:
            model.sample(0)
        except ValueError as error:
            found["said"] = str(error)
    else:
        ids = given["input_ids"][:, :3]
        found["drawn"] = model.generate(ids, max_new_tokens=5)
        found["static"] = model.generate(ids, max_new_tokens=5, unmasking="static")
    torch.save(found, folder / "found.pt")
"""


def ddit(process, sampler=None, schedule="log_linear", **more):
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = DDiTConfig(
        vocab_size=process.vocab_size, max_position_embeddings=LENGTH, **{**sizes, **more}
    )
    model = DDiTForDiscreteDiffusion(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) / 3)
    as_denoiser(model, Diffusion(process, Schedule.from_config(schedule)))
    if sampler is not None:
        enter_sampler(model, sampler, 3)
    return model


def gidd(folder):
    Gidd.example(folder)
    return Gidd().read(str(folder))[0].eval()


def held():
    model = ddit(Absorbing(K))
    model.config.held_tokens = {"tokens": [0, 1], "begin": [0], "end": [1]}
    return model


def bd3lm(folder):
    BD3LM.example(folder)
    return BD3LM().read(str(folder))[0].eval()


def adapted():
    """A masked language model of transformers with a noise input that does something."""
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    config = BertConfig(vocab_size=K, num_attention_heads=2, max_position_embeddings=9, **sizes)
    torch.manual_seed(0)
    model = NoisedMaskedLM.of(BertForMaskedLM(config), 2).eval()
    torch.nn.init.normal_(model.noise_proj.weight)
    as_denoiser(model, Diffusion(Absorbing(K)))
    return model


STUDENTS = {
    "bd3lm": bd3lm,
    "adapter": lambda _: adapted(),
    "masked": lambda _: held(),
    "uniform": lambda _: ddit(Uniform(K), Ancestral(), "cosine", time_conditioning=True),
    "ordered": lambda _: ddit(Absorbing(K), UnmaskingSampler({"type": "klass"}), noise_dim=2),
    "within": lambda _: ddit(
        Kronecker([Uniform(3), Uniform(3)]), PredictorCorrector(), num_classes=2
    ),
    "gidd": gidd,
    "blocks": lambda _: block_model("qwen3", shift=True),
}


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Every student as it is here, and what another process found in its folder."""
    place = tmp_path_factory.mktemp("elsewhere")
    (place / "out").mkdir()
    models = {}
    for name, made in STUDENTS.items():
        model, folder = made(place / name), place / "out" / name
        RemoteCode().write(model, folder)
        ids = torch.randint(0, model.config.vocab_size - 1, (2, LENGTH))
        given = {"input_ids": ids}
        if getattr(model.config, "time_conditioning", False):
            given["timesteps"] = torch.tensor([0.3, 0.9])
        torch.save(given, folder / "given.pt")
        models[name] = (model, given)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(place / "home")}
    code = f"LENGTH = {LENGTH}\n{ELSEWHERE}"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, str(place / "out")],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return {
        name: (*each, torch.load(place / "out" / name / "found.pt"))
        for name, each in models.items()
    }


@pytest.mark.parametrize("name", STUDENTS)
@pytest.mark.slow
def test_logits_differ_where_the_package_is_not_installed(both, name):
    model, given, found = both[name]
    # Two processes round alike only with as many threads.
    torch.testing.assert_close(model(**given).logits, found["logits"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", sorted(STUDENTS.keys() - {"blocks", "bd3lm"}))
def test_samples_differ_where_the_package_is_not_installed(both, name):
    model, _, found = both[name]
    sampler, generator = sampler_of(model), torch.Generator().manual_seed(0)
    length = model.config.max_position_embeddings
    for key, shape, steps in (("drawn", (3, length), 5), ("own", (2, LENGTH - 1), 3)):
        if key in found:
            drawn = sampler.sample(
                as_denoiser(model), blank_canvas(model.config, shape), steps, generator
            )
            assert torch.equal(found[key], drawn), key
    assert ("own" in found) == ("num_inference_steps" in model.config.discrete_diffusion)
    if name == "masked":
        assert found["drawn"][:, 0].eq(0).all() and found["drawn"][:, -1].eq(1).all()
    assert found["said"] == "batch_size must be an integer of at least 1, got 0."


@pytest.mark.parametrize("name", ["blocks", "bd3lm"])
def test_generated_text_differs_where_the_package_is_not_installed(both, name):
    model, given, found = both[name]
    ids = given["input_ids"][:, :3]
    assert torch.equal(model.generate(ids, max_new_tokens=5), found["drawn"])
    static = model.generate(ids, max_new_tokens=5, unmasking="static")
    assert torch.equal(static, found["static"])


def modules():
    files = [file for file in PACKAGE.rglob("*.py") if "__" not in file.name]
    named = (".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts) for file in files)
    return [name for name in named if name.split(".")[1] not in ("cli", "lazy", "registration")]


def test_two_modules_are_carried_into_one_file():
    names = [own_code.file_of(module) for module in modules()]
    assert len(set(names)) == len(names)


def names_in(tree):
    """The names that the statements of a module make."""
    made = set()
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            made |= {alias.asname or alias.name for alias in node.names}
        elif hasattr(node, "name"):
            made.add(node.name)
        else:
            made |= {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
    return made


def test_a_member_is_not_carried_whole():
    families = ("sampler", "process", "schedule", "parameterization", "unmasking")
    kinds = [f for f in Configurable.__subclasses__() if f.family in families]
    members = {kind.__module__ for family in kinds for kind in family.registry.values()}
    members |= {Sampling.__module__, BlockDiffusionLM.__module__, GiddLM.__module__}
    own = sorted(name for name in members if name.startswith("hf_ddistill."))
    assert len(own) > 20
    files = own_code.carried(own)
    trees = {name: ast.parse(text) for name, text in files.items()}
    made = {name: names_in(tree) for name, tree in trees.items()}
    for name, text in files.items():
        for node in ast.walk(trees[name]):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert {alias.name for alias in node.names} <= made[f"{node.module}.py"], name
            elif isinstance(node, ast.ImportFrom):
                assert node.module.split(".")[0] in THERE, (name, node.module)
            elif isinstance(node, ast.Import):
                assert {alias.name.split(".")[0] for alias in node.names} <= THERE, name
        assert not re.search(r"^\s*(from|import) hf_ddistill", text, re.M), name
        assert text.startswith("# SPDX-License-Identifier: Apache-2.0\n# A copy of hf_ddistill/")


def test_the_package_does_not_read_its_own_folder_back(tmp_path):
    model = ddit(Uniform(K), Ancestral())
    RemoteCode().write(model, tmp_path / "out")
    assert recognise(str(tmp_path / "out")) is RemoteCode
    again, tokenizer = RemoteCode().read(str(tmp_path / "out"))
    assert tokenizer is None and type(again) is DDiTForDiscreteDiffusion
    again.save_pretrained(tmp_path / "plain")
    model.save_pretrained(tmp_path / "before")
    read = [json.loads((tmp_path / n / "config.json").read_text()) for n in ("plain", "before")]
    assert read[0] == read[1]
    plain, out = (load_file(tmp_path / n / "model.safetensors") for n in ("plain", "out"))
    assert plain.keys() == out.keys() and all(torch.equal(plain[k], out[k]) for k in out)
    assert type(load_masked_lm(tmp_path / "out")) is DDiTForDiscreteDiffusion


def test_the_command_writes_no_code(tmp_path, capsys):
    ddit(Absorbing(K)).save_pretrained(tmp_path / "student")
    argv = ["export", str(tmp_path / "student"), str(tmp_path / "out"), "--to", "transformers"]
    assert main(argv) == 0
    assert "in the form of a model of hf_ddistill with its code" in capsys.readouterr().out
    named = json.loads((tmp_path / "out" / "config.json").read_text())["auto_map"]
    assert named["AutoModelForMaskedLM"] == "modeling_student.DDiTForDiscreteDiffusion"
    assert (tmp_path / "out" / "samplers_ancestral.py").is_file()
    loaded = 'AutoModelForMaskedLM.from_pretrained("out", trust_remote_code=True)'
    assert loaded in (tmp_path / "out" / "README.md").read_text()
    assert main([*argv, "--overwrite"]) == 0
    back = ["convert", str(tmp_path / "out"), str(tmp_path / "back")]
    assert main(back) == 0 and "with its code: its configuration" in capsys.readouterr().out
    assert "auto_map" not in (tmp_path / "back" / "config.json").read_text()


def test_what_cannot_be_carried_is_written(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="this is a LlamaForCausalLM: transformers has"):
        RemoteCode().write(causal(), tmp_path / "a")
    inner = block_model("qwen3")
    inner.lm.__class__ = type("Own", (type(inner.lm),), {"__module__": __name__})
    with pytest.raises(ValueError, match="The network within this BlockDiffusionLM is a Own"):
        RemoteCode().write(inner, tmp_path / "b")
    monkeypatch.setattr(Unmasking, "registry", dict(Unmasking.registry))

    @dataclass(frozen=True)
    class Mine(type(Unmasking.from_config("static"))):
        """A rule of one's own."""

    model = ddit(Absorbing(K), UnmaskingSampler(Mine()))
    with pytest.raises(ValueError, match="The unmasking 'mine' of the student is of test_remote"):
        RemoteCode().write(model, tmp_path / "c")
    assert not any((tmp_path / name).exists() for name in "abc")
