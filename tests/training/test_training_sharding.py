"""What is refused where the student is sharded (accelerate's own state says that it is)."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from training_runs import tiny

from hf_ddistill.training.sharding import check_whole, placed_teacher


@pytest.fixture
def sharded(monkeypatch):
    accelerator = Accelerator(cpu=True)
    state = {
        "distributed_type": DistributedType.FSDP,
        "fsdp_plugin": SimpleNamespace(fsdp_version=1),
    }
    for name, value in state.items():
        monkeypatch.setitem(AcceleratorState._shared_state, name, value)
    return accelerator


def test_what_takes_weights_as_fsdp2_shards_them_is_told(sharded, monkeypatch):
    with pytest.raises(ValueError, match=r"The mean of weights takes .* FSDP1 shards them: set"):
        check_whole(sharded, "The mean of weights")
    monkeypatch.setattr(sharded.state.fsdp_plugin, "fsdp_version", 2)
    check_whole(sharded, "The mean of weights")


def test_a_teacher_that_would_be_empty_on_other_processes_is_refused(sharded, monkeypatch):
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "true")
    with pytest.raises(ValueError, match="only the first process has the weights"):
        placed_teacher(tiny(), sharded)


def test_a_teacher_beside_a_sharded_student_stays_whole(sharded, monkeypatch):
    monkeypatch.delenv("FSDP_CPU_RAM_EFFICIENT_LOADING", raising=False)
    teacher = tiny()
    assert placed_teacher(teacher, sharded) is teacher
    assert next(teacher.parameters()).device == sharded.device
