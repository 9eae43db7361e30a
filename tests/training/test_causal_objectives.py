"""Objectives that ask their teacher for each next token, and teachers that cannot say it."""

import pytest
from block_runs import converted, distilling
from training_runs import tiny

from hf_ddistill.convert import LLaDA
from hf_ddistill.models import as_denoiser
from hf_ddistill.objectives import Frozen, Objective

CAUSAL = sorted(
    name
    for name, kind in Objective.registry.items()
    if kind.networks.get("teacher") == Frozen(causal=True)
)


def llada(folder):
    """A Llama under full attention, as LLaDA is."""
    LLaDA.example(folder / "source")
    return LLaDA().read(str(folder / "source"))[0]


def saved(folder):
    model = llada(folder)
    model.save_pretrained(folder / "llada")
    return str(folder / "llada")


def test_the_objectives_are_those_of_causal_teachers():
    assert {"opdlm", "causal_law_matching", "block_law_matching", "block_acceptance"} <= {*CAUSAL}


@pytest.mark.parametrize("objective", CAUSAL)
@pytest.mark.parametrize(
    "teacher", [llada, saved, lambda folder: tiny(), lambda folder: as_denoiser(llada(folder))]
)
def test_a_teacher_of_both_directions_is_read_from_left_to_right(objective, teacher, tmp_path):
    """What it says of a token whose neighbours to the right it never saw means nothing."""
    with pytest.raises(ValueError, match="asks its teacher for each next token") as caught:
        distilling(tmp_path / "out", teacher=teacher(tmp_path), objective=objective)
    said = str(caught.value)
    assert f"Objective {objective!r}" in said and "reads in both directions: give a causal" in said
    assert "\n" not in said and not (tmp_path / "out").exists()


def test_a_causal_model_in_blocks_is_refused_as_a_teacher(tmp_path):
    assert distilling(tmp_path, teacher=converted(4)).teacher_model is not None
