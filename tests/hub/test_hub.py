"""A distilled student is pushed by its trainer and loaded by name."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load

REPO = "tester/digits-student"

# One program: nearly all of its time goes into its imports.
PUSH_AND_LOAD = """
import sys
import torch
from training_runs import At, distilling, tiny
from transformers import AutoModelForMaskedLM
from hf_ddistill.models import as_denoiser

folder, states, repo = sys.argv[1:]
trainer = distilling(
    folder + "/student", tiny(), student_steps=2, max_steps=2, learning_rate=0.05,
    push_to_hub=True, hub_model_id="digits-student", save_strategy="steps", save_steps=1,
)
pushed = {}

def keep(state, control):
    pushed[state.global_step] = dict(trainer.average.mean)

trainer.add_callback(At("on_step_end", keep))
from pathlib import Path
Path(folder, "student").mkdir(exist_ok=True)
Path(folder, "student", ".env").write_text("TOKEN=1")
trainer.train()
trainer.push_to_hub(license="mit")
x_t, t = torch.full((2, 64), 2), torch.tensor([0.3, 1.0])
x_t[0, ::2] = 1
trainer.model.eval()
with trainer.averaged_weights(), torch.no_grad():
    log_p = trainer.denoiser()(x_t, t).log_conditional
torch.save(pushed, states)

student = as_denoiser(AutoModelForMaskedLM.from_pretrained(repo))
with torch.no_grad():
    assert torch.equal(student(x_t, t).log_conditional, log_p)
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
def test_pushed_student_is_the_averaged_one_and_loads_bit_equal(local_hub, tmp_path):
    path = ":".join(entry for entry in sys.path if entry)
    env = local_hub.env | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    states = tmp_path / "states.pt"
    run(PUSH_AND_LOAD, tmp_path, states, REPO, env=env)

    trees = list(local_hub.repositories[REPO].trees.values())
    files = {name for tree in trees for name in tree}
    assert files >= {"model.safetensors", "config.json", "README.md"}
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pth", ".pkl"))]
    assert files <= {"model.safetensors", "config.json", "README.md", ".gitattributes"}

    pushed = torch.load(states)
    seen = []
    for tree in trees:
        if "model.safetensors" in tree:
            weights = load(tree["model.safetensors"])
            seen += [s for s, m in pushed.items() if all(torch.equal(weights[n], m[n]) for n in m)]
    assert sorted(set(seen)) == [1, 2]

    card = ModelCard(local_hub.files(REPO)["README.md"].decode())
    assert card.data.library_name == "hf_ddistill" and card.data.license == "mit"
    assert f"# {REPO}" in card.text and "for 2 network calls per sample" in card.text
