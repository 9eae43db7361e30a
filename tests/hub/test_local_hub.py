"""The loopback Hub is real enough to trust: what one process pushes, another one loads.

Both processes run the unmodified client; about 15 s in all, nearly all of it imports.
"""

from __future__ import annotations

import hashlib
import socket
import subprocess
import sys

import pytest

REPO = "tester/tiny-bert"

PUSH = """
import sys
import torch
from huggingface_hub import ModelCard, ModelCardData
from transformers import BertConfig, BertForMaskedLM

torch.manual_seed(0)
config = BertConfig(
    vocab_size=11, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
    intermediate_size=16, max_position_embeddings=16,
)
model = BertForMaskedLM(config)
model.push_to_hub(sys.argv[1], private=True)
data = ModelCardData(license="apache-2.0", library_name="hf_ddistill", tags=["discrete-diffusion"])
ModelCard.from_template(data, template_str="---\\n{{ card_data }}\\n---\\n# A tiny BERT\\n") \
    .push_to_hub(sys.argv[1])
torch.save(model.state_dict(), sys.argv[2])
"""

LOAD = """
import sys
from pathlib import Path
import torch
from huggingface_hub import ModelCard, snapshot_download
from transformers import AutoModelForMaskedLM

loaded = AutoModelForMaskedLM.from_pretrained(sys.argv[1]).state_dict()
pushed = torch.load(sys.argv[2])
assert loaded.keys() == pushed.keys(), loaded.keys() ^ pushed.keys()
for name, value in pushed.items():
    assert torch.equal(loaded[name], value), name
assert ModelCard.load(sys.argv[1]).data.tags == ["discrete-diffusion"]
assert (Path(snapshot_download(sys.argv[1])) / "model.safetensors").is_file()
"""

REFUSED = """
import sys
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError

HfApi().create_repo("tester/empty")
for repo_id, error in (
    ("tester/absent", RepositoryNotFoundError),
    ("tester/empty", EntryNotFoundError),
):
    try:
        hf_hub_download(repo_id, "config.json")
    except error:
        continue
    sys.exit(f"{repo_id}: no {error.__name__}")
"""


def run(source, *arguments, env):
    """Run `source` as a program of its own; a failure shows what it wrote."""
    done = subprocess.run(
        [sys.executable, "-c", source, *map(str, arguments)],
        env=env,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_a_pushed_model_is_loaded_bit_equal_by_another_process(local_hub, tmp_path):
    state = tmp_path / "state.pt"
    run(PUSH, REPO, state, env=local_hub.env)

    files = local_hub.files(REPO)
    assert set(files) >= {"config.json", "model.safetensors", "README.md"}
    assert files["README.md"].decode().endswith("# A tiny BERT")
    oid = hashlib.sha256(files["model.safetensors"]).hexdigest()
    assert ("PUT", f"/lfs/{oid}") in local_hub.requests, "the weights did not go through LFS"

    run(LOAD, REPO, state, env=local_hub.env)


def test_a_missing_repository_or_file_is_the_error_a_user_would_see(local_hub):
    run(REFUSED, env=local_hub.env)


def test_files_of_a_repository_that_was_not_pushed_are_an_error(local_hub):
    with pytest.raises(KeyError, match="no repository 'tester/absent' was pushed"):
        local_hub.files("tester/absent")


def test_the_subprocess_may_reach_the_hub_and_does_not_see_the_users_cache(local_hub, tmp_path):
    assert not {"HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"} & set(local_hub.env)
    assert local_hub.env["HF_ENDPOINT"].startswith("http://127.0.0.1:")
    assert local_hub.env["HF_HOME"].startswith(str(tmp_path))


def test_a_connection_beyond_loopback_is_refused():
    # The broadcast address: were the guard broken, the kernel itself would refuse TCP to it.
    with socket.socket() as connection, pytest.raises(RuntimeError, match="beyond loopback"):
        connection.connect(("255.255.255.255", 9))
    with pytest.raises(RuntimeError, match="beyond loopback"):
        socket.getaddrinfo("255.255.255.255", 9)


def test_a_connection_on_loopback_is_allowed(local_hub):
    port = int(local_hub.url.rsplit(":", 1)[1])
    socket.create_connection(("localhost", port), timeout=10).close()
