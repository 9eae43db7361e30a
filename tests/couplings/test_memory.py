"""What a training remembers, and what a step tells of itself."""

import pytest
import torch

from hf_ddistill.couplings import Log, Memory


def test_owners_do_not_see_each_other_s_entries():
    memory = Memory()
    memory.of("one").get("table", torch.zeros(2)).add_(1)
    memory.of("one").of("part").put("table", torch.ones(3))
    assert memory.of("other").get("table", torch.zeros(2)).tolist() == [0, 0]
    assert set(memory.tensors) == {"one.table", "one.part.table", "other.table"}
    memory.of("one").of("part").clear()
    assert set(memory.of("one").own()) == {"table"}
    memory.of("one").clear()
    assert set(memory.tensors) == {"other.table"}


def test_what_is_kept_is_found_again_and_changed_in_place():
    memory = Memory()
    memory.of("one").get("count", torch.zeros(1)).add_(5)
    again = Memory(dict(memory.tensors))
    assert again.of("one").get("count", torch.zeros(1)).tolist() == [5]
    copied = memory.copy()
    copied.of("one").get("count", torch.zeros(1)).add_(1)
    assert memory.of("one").get("count", torch.zeros(1)).tolist() == [5]


@pytest.mark.parametrize("fresh", [torch.zeros(3), torch.zeros(2, dtype=torch.float64)])
def test_an_entry_of_another_kind_is_refused(fresh):
    memory = Memory({"one.table": torch.zeros(2)})
    with pytest.raises(ValueError, match="The memory of 'one.table' holds torch.float32 of shape"):
        memory.of("one").get("table", fresh)


def test_a_figure_that_is_not_one_number_is_refused_and_others_lose_their_graph():
    log = Log()
    log("loss", torch.ones((), requires_grad=True) * 2)
    log("share", 0.5)
    assert not log.figures["loss"].requires_grad and float(log.figures["share"]) == 0.5
    with pytest.raises(ValueError, match="'rows' has the shape"):
        log("rows", torch.zeros(3))
