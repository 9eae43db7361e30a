"""Adapters that a trainer pushed open by their name: with a base on the Hub, in a folder of this
machine, or in memory alone."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from huggingface_hub import ModelCard

# One program: nearly all of its time goes into its imports.
PUSH_AND_OPEN = """
import sys
import torch, transformers
from training_runs import rows, tiny
from bert_folders import TOKENS, bert_folder, opened_bert, same_law, saved
from transformers import AutoModelForMaskedLM
from hf_ddistill import DiscreteDiffusionPipeline
from hf_ddistill.hub import load_model
from hf_ddistill.models.opening import is_causal_name

folder = sys.argv[1]
AutoModelForMaskedLM.from_pretrained(bert_folder(folder + "/bert")).push_to_hub("tester/bert")
digits = torch.tensor([row["input_ids"] for row in rows(16)])
for name, base, data, tokens in (
    ("named", opened_bert("tester/bert"), TOKENS, None),
    ("local", opened_bert(folder + "/bert"), TOKENS, None),
    ("memory", tiny(), rows(16), digits),
):
    trainer = saved(folder + "/" + name, base, data, hub_model_id=name)
    trainer.push_to_hub(license="mit")
    repo = "tester/" + name
    pipe = DiscreteDiffusionPipeline.from_pretrained(repo)
    assert same_law(trainer, pipe.model, tokens), name
    assert pipe.scheduler.config.num_inference_steps == 3
    assert not is_causal_name(repo) and same_law(trainer, load_model(repo), tokens), name
    generate = transformers.pipeline("discrete-diffusion", model=repo, device="cpu")
    assert same_law(trainer, generate.model, tokens), name
"""


@pytest.mark.slow
def test_pushed_adapters_open_with_their_base_wherever_it_was(local_hub, tmp_path):
    path = ":".join(entry for entry in sys.path if entry)
    env = local_hub.env | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PUSH_AND_OPEN, str(tmp_path)],
        env=env,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for name, base in (("named", "tester/bert"), ("local", "tester/local")):
        files = local_hub.files(f"tester/{name}")
        assert ("model.safetensors" in files) == (name != "named")
        settings = json.loads(files["adapter_config.json"])
        assert settings["base_model_name_or_path"] == base
        assert not [text for text in files.values() if str(tmp_path).encode() in text]
    revision = json.loads(local_hub.files("tester/named")["adapter_config.json"])["revision"]
    assert revision in local_hub.repositories["tester/bert"].trees
    card = ModelCard(local_hub.files("tester/named")["README.md"].decode())
    assert card.data.base_model == "tester/bert" and card.data.base_model_relation == "adapter"
