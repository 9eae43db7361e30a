"""What a push uploads: what a model is made of, and nothing else that lies beside it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from training_runs import tiny

from hf_ddistill import sharing
from hf_ddistill.cli.push import describe
from hf_ddistill.sharing import push, shipment
from hf_ddistill.training import CardFacts, write_card

SECRETS = {
    ".env": "TOKEN=1",
    "id_rsa": "key",
    "notes.txt": "mine",
    "training_args.bin": "pickle",
    "pytorch_model.bin": "pickle",
    "optimizer.pt": "pickle",
    "run_state.safetensors": "state",
    "rows.json": "figures",
    "checkpoint-4/model.safetensors": "weights",
    "checkpoint-4/config.json": "{}",
    "replaced/checkpoint-2/optimizer.pt": "pickle",
    "scheduler/secret.json": "{}",
    "private/config.json": "{}",
    "private/photo.png": "png",
    ".git/config": "url",
}
SHARED = {
    "tokenizer.json": "{}",
    "tokenizer_config.json": "{}",
    "generation_config.json": "{}",
    "scheduler/scheduler_config.json": "{}",
    "metrics.json": "{}",
    "samples.png": "png",
    "figures/curve.jpg": "jpg",
}
FACTS = CardFacts(
    "student", {"type": "ecd"}, "Citation.", {"type": "x"}, 4, "someone/teacher", license="mit"
)


@pytest.fixture
def folder(tmp_path):
    """A model in a folder `student`, with much beside it."""
    place = tmp_path / "student"
    tiny().save_pretrained(place)
    write_card(place, FACTS)
    card = place / "README.md"
    card.write_text(card.read_text() + "\n![a curve](figures/curve.jpg)\n")
    for path, text in (SECRETS | SHARED).items():
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_text(text)
    return place


def test_only_what_a_model_is_made_of_is_taken_and_the_rest_is_named(folder):
    cargo = shipment(folder, "me/model")
    assert set(cargo.files) == {"README.md", "config.json", "model.safetensors", *SHARED}
    named = {path.partition("/")[0] if "/" in path else path for path in SECRETS} - {"scheduler"}
    told = {path.rstrip("/") for path in cargo.left_out}
    assert told == named | {"scheduler/secret.json"}
    said = describe(cargo, "student", "me/model", private=False)
    assert f"Pushing {len(cargo.files)} files" in said and "everybody can read it" in said
    assert all(path in said for path in cargo.files) and ".env" in said.split("Left out")[1]
    assert "you alone see it" in describe(cargo, "student", "me/model", private=True)


def test_links_that_lead_out_of_the_folder_are_not_followed(folder, tmp_path):
    (tmp_path / "secret").write_text("key")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "scheduler_config.json").write_text("key")
    (folder / "vocab.txt").symlink_to(tmp_path / "secret")
    (folder / "merges.txt").symlink_to(folder / "tokenizer.json")
    (folder / "loop").symlink_to(folder)
    (folder / "scheduler").rename(tmp_path / "moved")
    (folder / "scheduler").symlink_to(tmp_path / "elsewhere")
    cargo = shipment(folder, "me/model")
    assert "merges.txt" in cargo.files
    assert not {"vocab.txt", "scheduler/scheduler_config.json"} & set(cargo.files)
    assert {"vocab.txt", "scheduler/", "loop/"} <= set(cargo.left_out)


def test_the_card_that_goes_names_the_repository_and_the_user_s_does_not_change(folder):
    mine = (folder / "README.md").read_text()
    cargo = shipment(folder, "me/model")
    assert 'DiscreteDiffusionPipeline.from_pretrained("me/model")' in cargo.card
    assert '"student"' not in cargo.card and "`someone/teacher`" in cargo.card
    assert (folder / "README.md").read_text() == mine and 'from_pretrained("student")' in mine


def test_a_name_that_is_also_an_objective_s_is_replaced_in_snippets_alone(folder):
    place = folder.rename(folder.with_name("ecd"))
    write_card(place, CardFacts("ecd", {"type": "ecd"}, "C.", {}, 4, "someone/teacher"))
    card = shipment(place, "me/model").card
    assert '"type": "ecd"' in card and 'from_pretrained("me/model")' in card


@pytest.mark.parametrize(
    ("gone", "words"),
    [
        ("config.json", "holds no model to push"),
        ("README.md", "has no card"),
        ("model.safetensors", "holds no weights to push"),
    ],
)
def test_half_a_model_is_not_pushed(folder, gone, words):
    (folder / gone).unlink()
    with pytest.raises(ValueError, match=words):
        shipment(folder, "me/model")


def test_a_name_that_is_none_is_told(folder):
    with pytest.raises(ValueError, match="is no name of a repository"):
        shipment(folder, "me/my/model")


def test_adapters_can_be_pushed_and_their_base_is_named(folder):
    (folder / "config.json").unlink()
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    about = {"base_model_name_or_path": "/home/me/base"}
    (folder / "adapter_config.json").write_text(json.dumps(about))
    cargo = shipment(folder, "me/model")
    assert {"adapter_config.json", "adapter_model.safetensors"} <= set(cargo.files)
    assert "/home/me/base" in describe(cargo, "student", "me/model", private=False)


def test_components_of_a_pipeline_are_taken(folder):
    index = {"_class_name": "Pipe", "unet": ["diffusers", "UNet2DModel"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    for path in ("unet/config.json", "unet/diffusion_pytorch_model.safetensors", "unet/x.bin"):
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text("{}")
    files = shipment(folder, "me/model").files
    assert {"unet/config.json", "unet/diffusion_pytorch_model.safetensors"} <= set(files)
    assert "unet/x.bin" not in files and "private/config.json" not in files


def test_a_public_repository_is_not_pushed_to_as_a_private_one(folder, monkeypatch):
    monkeypatch.setattr(sharing, "is_private", lambda repo_id: False)
    with pytest.raises(ValueError, match="me/model is there and is public"):
        push(folder, "me/model", private=True)


@pytest.mark.slow
def test_the_hub_has_what_was_said_and_the_pushed_model_opens(folder, local_hub, tmp_path):
    path = ":".join(entry for entry in sys.path if entry)
    env = local_hub.env | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    code = (
        "import sys; from hf_ddistill.cli import main; from hf_ddistill.hub import load_model;"
        "code = main(['push', sys.argv[1], 'tester/private', '--private']);"
        "again = main(['push', sys.argv[1], 'tester/private']);"
        "public = main(['push', sys.argv[1], 'tester/public']);"
        "refused = main(['push', sys.argv[1], 'tester/public', '--private']);"
        "load_model('tester/private');"
        "sys.exit(f'{code}{again}{public}{refused}')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], env=env, capture_output=True, text=True
    )
    assert "0002" in done.stderr, done.stdout + done.stderr
    assert done.stdout.count("you alone see it") == 2 and "everybody can read it" in done.stdout
    assert "tester/public is there and is public" in done.stderr
    files = local_hub.files("tester/private")
    expected = {"README.md", "config.json", "model.safetensors", *SHARED}
    assert set(files) == set(local_hub.files("tester/public")) == expected
    assert b'from_pretrained("tester/private")' in files["README.md"]
    assert local_hub.repositories["tester/private"].private
