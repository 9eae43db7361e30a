"""What every test runs under: offline, on two threads, from the same seed, shapes checked.

The import hook is installed before anything imports `hf_ddistill`; under it every annotated
function of the core checks the shapes and types of its arguments and of what it returns, in the
first calls of each test (`support/shape_checks.py`).
"""

from __future__ import annotations

import atexit
import gc
import ipaddress
import os
import random
import shutil
import socket
import tempfile

# Looked for when all is imported: see below.
gc.disable()
# Before any Hugging Face library is imported: they read these once, at import.
_HOME = tempfile.mkdtemp(prefix="hf_ddistill-tests-")
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)
os.environ |= {
    "HF_HOME": _HOME,
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MPLBACKEND": "Agg",
    "TOKENIZERS_PARALLELISM": "false",
}

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import shape_checks  # noqa: E402
import torch  # noqa: E402
from jaxtyping import install_import_hook  # noqa: E402
from local_hub import LocalHub  # noqa: E402

CHECKED = (
    "linalg",
    "schedules",
    "processes",
    "diffusion",
    "parameterizations",
    "denoisers",
    "samplers",
    "couplings",
    "laboratory",
    "divergences",
    "objectives",
)
install_import_hook([f"hf_ddistill.{name}" for name in CHECKED], "shape_checks.checked")

torch.set_num_threads(1)
# A warning that torch gives once a process would fail whichever test comes first.
torch.set_warn_always(True)


def pytest_collection_finish():
    """What was imported stays, so that garbage is not looked for in it: a Trainer collects in each
    of its runs, and went through all modules for longer than it trained."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item, nextitem):
    """Nor is it looked for in what a file has left: libraries that are imported where they are
    first used, and their caches."""
    if nextitem is None or nextitem.path != item.path:
        gc.collect()
        gc.freeze()


def _require_loopback(host):
    """Raise unless `host` is this machine. Not an OSError: clients catch those and go on."""
    name = host.decode() if isinstance(host, bytes) else host
    if name in (None, "", "localhost"):
        return
    try:
        if ipaddress.ip_address(name).is_loopback:
            return
    except ValueError:
        pass  # another host's name
    raise RuntimeError(f"a test reached for {name!r}, beyond loopback: tests run offline")


@pytest.fixture(scope="session", autouse=True)
def no_network():
    """Refuse every connection and look-up beyond loopback, in this process."""
    connect, connect_ex = socket.socket.connect, socket.socket.connect_ex
    getaddrinfo = socket.getaddrinfo

    def guarded(original):
        def call(self, address):
            if self.family in (socket.AF_INET, socket.AF_INET6):
                _require_loopback(address[0])
            return original(self, address)

        return call

    def guarded_getaddrinfo(host, *args, **kwargs):
        _require_loopback(host)
        return getaddrinfo(host, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded(connect))
        patch.setattr(socket.socket, "connect_ex", guarded(connect_ex))
        patch.setattr(socket, "getaddrinfo", guarded_getaddrinfo)
        yield


@pytest.fixture(autouse=True)
def shapes_checked():
    """The first calls of every test are checked."""
    shape_checks.begin()


@pytest.fixture(autouse=True)
def seeds():
    """Every test starts from the same global seeds, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def local_hub(tmp_path):
    """A Hub on loopback: `.env` for subprocesses, `.files(repo_id)` for what they pushed."""
    with LocalHub(home=tmp_path / "hub-client") as hub:
        yield hub


@pytest.fixture(scope="module")
def registries_of_their_own():
    """What the tests of a file register is in no registry when they are over."""
    from hf_ddistill.configurable import Configurable  # after the import hook

    before = {family: dict(family.registry) for family in Configurable.__subclasses__()}
    yield
    for family, registry in before.items():
        family.registry.clear()
        family.registry.update(registry)
