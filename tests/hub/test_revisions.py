"""A network of one revision of many, as SDTT keeps its rounds, is converted by name."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from dit_checkpoints import SMALL, V, drawn, hydra
from safetensors.torch import load_file, save
from test_hub import run

REPO = "tester/rounds"
PUSH = """
import sys
from huggingface_hub import HfApi
api = HfApi()
api.create_repo("tester/rounds", repo_type="model")
for folder in sys.argv[1:]:
    print(api.upload_folder(repo_id="tester/rounds", folder_path=folder).oid)
"""
CONVERT = """
import sys
from hf_ddistill.cli.main import main
sys.exit(main(["convert", "tester/rounds", sys.argv[1], *sys.argv[2:]]))
"""


@pytest.mark.slow
def test_a_revision_is_converted_as_the_newest(local_hub, tmp_path):
    env = local_hub.env | {"PYTHONPATH": ":".join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    config = hydra(SMALL, parameterization={"name": "x"}, tokenizer={"name": "gpt2"})
    for seed in (1, 2):
        folder = tmp_path / f"round{seed}"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config))
        state = {f"backbone.{key}": value for key, value in drawn(V, seed, **SMALL).items()}
        (folder / "model.safetensors").write_bytes(save(state))
    run(PUSH, tmp_path / "round1", tmp_path / "round2", env=env)
    first = next(
        commit
        for commit, tree in local_hub.repositories[REPO].trees.items()
        if "model.safetensors" in tree
    )
    run(CONVERT, tmp_path / "old", "--revision", first, env=env)
    run(CONVERT, tmp_path / "new", env=env)
    for name, seed in (("old", 1), ("new", 2)):
        found = load_file(tmp_path / name / "model.safetensors")["model.embed_tokens.weight"]
        assert torch.equal(found, drawn(V, seed, **SMALL)["vocab_embed.embedding"])
