"""What `export --to transformers` wrote, pushed and opened by its name without the package."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from hf_ddistill.cli.main import main
from hf_ddistill.convert import RemoteCode
from hf_ddistill.sharing import shipment

PUSH = """
import sys
from hf_ddistill.sharing import push
push(sys.argv[1], "tester/student")
"""
OPEN = """
import sys, torch
sys.modules["hf_ddistill"] = None
from transformers import AutoModelForMaskedLM
model = AutoModelForMaskedLM.from_pretrained("tester/student", trust_remote_code=True)
logits = model(torch.arange(6)[None]).logits.detach()
drawn = model.sample(3, 4, generator=torch.Generator().manual_seed(0))
torch.save({"logits": logits, "drawn": drawn}, sys.argv[1])
"""


@pytest.fixture
def folder(tmp_path):
    """An exported student."""
    RemoteCode.example(tmp_path / "student")
    argv = ["export", str(tmp_path / "student"), str(tmp_path / "out"), "--to", "transformers"]
    assert main(argv) == 0
    return tmp_path / "out"


def test_the_code_stays_behind_or_what_is_not_ours_goes_with_it(folder):
    for name in ("mine.py", "mine.yaml"):
        (folder / name).write_text("mine = 1")
    (folder / "shapes.py").write_text("mine = 1")
    cargo = shipment(folder, "tester/student")
    assert {"modeling_student.py", "samplers_ancestral.py", "config.json"} <= {*cargo.files}
    assert {"mine.py", "mine.yaml", "shapes.py"} == {*cargo.left_out}


@pytest.mark.slow
def test_a_pushed_student_needs_an_install(folder, local_hub, tmp_path):
    path = ":".join(entry for entry in sys.path if entry)
    for code, argument, more in (
        (PUSH, folder, {"PYTHONPATH": path}),
        (OPEN, tmp_path / "found.pt", {"PYTHONPATH": ""}),
    ):
        done = subprocess.run(
            [sys.executable, "-P", "-c", code, str(argument)],
            env=local_hub.env | more,
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    found, (model, _) = torch.load(tmp_path / "found.pt"), RemoteCode().read(str(folder))
    # Rounded alike only by as many threads, which the other process chose for itself.
    logits = model.eval()(torch.arange(6)[None]).logits.detach()
    torch.testing.assert_close(logits, found["logits"], rtol=0, atol=1e-6)
    assert found["drawn"].shape == (3, 8) and bool((found["drawn"] < 5).all())
