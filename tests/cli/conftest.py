"""What the tests of this folder share."""

import pytest
from lm_folder import lm  # noqa: F401 (a fixture)

from hf_ddistill.evaluation import two_sample


@pytest.fixture(autouse=True)
def small_forests(monkeypatch):
    """Ten trees instead of 200: these tests are of commands, and trees took most of their time."""
    monkeypatch.setattr(two_sample, "TREES", 10)
