"""Both trainers in two processes on the CPU (`accelerate launch --cpu` would start but one)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("distributed_run.py")


@pytest.mark.slow
def test_two_processes_draw_their_own_noise_and_keep_equal_weights(tmp_path):
    path = ":".join(entry for entry in sys.path if entry)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"),
            *("--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0", str(SCRIPT)),
            str(tmp_path),
        ],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for process in (0, 1):
        assert f"process {process} of 2 is done" in done.stdout
