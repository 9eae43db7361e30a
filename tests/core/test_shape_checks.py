"""That annotations are checked under pytest, and that the checks end with their budget."""

from __future__ import annotations

import pytest
import shape_checks
import torch
from jaxtyping import TypeCheckError

from hf_ddistill.diffusion import Diffusion
from hf_ddistill.processes import Uniform


def test_a_wrong_shape_passes_the_tests_unseen():
    with pytest.raises(TypeCheckError):
        Diffusion(Uniform(3)).corrupt(torch.zeros(2, 3), torch.full((2,), 0.5))  # not int64


def test_checks_that_found_nothing_go_on_for_a_whole_training(monkeypatch):
    monkeypatch.setattr(shape_checks, "_left", 8)
    diffusion, t = Diffusion(Uniform(3)), torch.full((2,), 0.5)
    for _ in range(8):
        diffusion.corrupt(torch.zeros(2, 3, dtype=torch.int64), t)
    assert shape_checks.config.jaxtyping_disable
