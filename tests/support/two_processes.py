"""A script in two processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def in_two_processes(script, folder):
    path = ":".join(entry for entry in sys.path if entry)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"),
            *("--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0"),
            str(Path(__file__).parents[1] / "support" / script),
            str(folder),
        ],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for process in (0, 1):
        assert f"process {process} of 2 is done" in done.stdout
