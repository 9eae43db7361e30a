"""Figures of molecules: what counts as one, copies, and the distance of ChemNet's features."""

from __future__ import annotations

import math
import sys

import pytest
import torch

from hf_ddistill.evaluation.frechet import frechet_distance
from hf_ddistill.evaluation.molecule_judge import MoleculeJudge
from hf_ddistill.evaluation.molecules import (
    bigram_entropy,
    canonical_smiles,
    chemnet_features,
    frechet_chemnet_distance,
    internal_diversity,
)
from hf_ddistill.evaluation.scaffolds import (
    scaffold_counts,
    scaffold_coverage,
    scaffold_similarity,
)

DRUGS = (
    "CC(=O)Oc1ccccc1C(=O)O",
    "CN1C=NC2=C1C(=O)N(C(=O)N2C)C",
    "CC(C)Cc1ccc(cc1)C(C)C(=O)O",
    "CC(=O)Nc1ccc(O)cc1",
    "COc1ccc2cc(ccc2c1)C(C)C(=O)O",
    "c1ccc2[nH]ccc2c1",
    "O=C(O)c1cccnc1",
    "CCN(CC)CC(=O)Nc1c(C)cccc1C",
)
ALKANES = tuple("C" * length for length in range(2, 10))


@pytest.fixture
def rdkit():
    return pytest.importorskip("rdkit")


@pytest.fixture
def fcd(rdkit):
    return pytest.importorskip("fcd")


def test_bigram_entropy_sees_the_order_that_characters_alone_do_not():
    assert bigram_entropy(["abab"]) == pytest.approx(math.log(3) - 2 / 3 * math.log(2))
    assert bigram_entropy(["aab", "", "b"]) == pytest.approx(math.log(2))
    with pytest.raises(ValueError, match="two characters"):
        bigram_entropy(["a", ""])


@pytest.mark.parametrize(
    ("package", "measure"),
    [
        ("rdkit", canonical_smiles),
        ("rdkit", internal_diversity),
        ("rdkit", scaffold_counts),
        ("fcd", chemnet_features),
    ],
)
def test_a_missing_extra_is_named_with_how_to_get_it(package, measure, monkeypatch):
    if package == "fcd":
        pytest.importorskip("rdkit")
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'hf_ddistill\[molecules\]'"):
        measure(["CC", "CO"])


def test_only_whole_strings_that_are_molecules_are_valid(rdkit, capfd):
    """An unclosed ring, five bonds at one carbon, nothing at all, and a molecule with a name."""
    strings = ["OCC", "C1CC", "C(C)(C)(C)(C)C", "", "CCO C", "CC_O"]
    assert canonical_smiles(strings) == ["CCO", None, None, None, None, None]
    assert capfd.readouterr() == ("", "")  # RDKit reports each of them, thousands in a run


def test_one_molecule_written_in_two_ways_is_one_molecule(rdkit):
    assert canonical_smiles(["C(C)O", "c1ccccc1"]) == canonical_smiles(["OCC", "C1=CC=CC=C1"])


def test_internal_diversity_shows_a_collapse_and_leaves_out_the_pair_with_itself(rdkit):
    assert internal_diversity(["CCO", "OCC", "C(C)O"]) == pytest.approx(0)
    assert internal_diversity(["CCCCCC", "c1ccncc1"]) == pytest.approx(1)
    assert internal_diversity(DRUGS) > internal_diversity(ALKANES) + 0.1
    with pytest.raises(ValueError, match="at least 2"):
        internal_diversity(["CCO"])
    with pytest.raises(ValueError, match="'C1CC'"):
        internal_diversity(["CCO", "C1CC"])


def test_distance_is_that_of_the_published_code(fcd):
    """39.155071: `fcd` 1.2.2, get_predictions and calculate_frechet_distance on these strings in
    RDKit's canonical form (39.155075 by our float64; scipy's root of a singular product is less
    exact)."""
    drugs, alkanes = chemnet_features(DRUGS), chemnet_features(ALKANES, batch_size=3)
    assert drugs.shape == (8, 512)
    assert drugs.dtype == torch.float64
    assert frechet_distance(drugs, alkanes) == pytest.approx(39.155071, abs=1e-4)
    assert frechet_chemnet_distance(DRUGS, drugs) == pytest.approx(0, abs=1e-4)


def test_features_do_not_depend_on_how_a_molecule_is_written(fcd):
    one, other = chemnet_features(["OCC", "C1=CC=CC=C1"]), chemnet_features(["C(C)O", "c1ccccc1"])
    assert torch.equal(one, other)


def test_what_chemnet_cannot_read_is_refused(fcd):
    with pytest.raises(ValueError, match="350"):
        chemnet_features(["CC", "C" * 350])
    with pytest.raises(ValueError, match="'C1CC'"):
        frechet_chemnet_distance(["CC", "C1CC"], ["CC", "CO"])
    with pytest.raises(ValueError, match="fcd_molecules=1"):
        MoleculeJudge(DRUGS, DRUGS, fcd_molecules=1)


def test_each_share_is_of_what_the_one_before_left(fcd):
    judge = MoleculeJudge(["OCC", "CCN", "not one"], DRUGS, fcd_molecules=3)
    # Of 8 samples 6 are valid, 4 of these distinct, 2 of these known.
    found = judge(["CCO", "C(C)O", "NCC", "CCC", "CCC", "CCCC", "C1CC", ""])
    assert (found["valid"], found["unique"], found["novel"]) == (6 / 8, 4 / 6, 2 / 4)
    assert found["length"] == (3 + 5 + 3 + 3 + 3 + 4 + 4 + 0) / 8
    assert found["entropy"] < found["corpus_entropy"] < found["bigram_entropy"]


def test_distances_are_measured_in_groups_of_one_size(fcd):
    """Five valid samples in groups of two: the fifth is in none."""
    judge = MoleculeJudge(DRUGS, DRUGS, fcd_molecules=2)
    found = judge(["CCO", "C1CC", "CCN", "CCC", "CCCC", "CC"])
    pairs = [frechet_chemnet_distance(pair, DRUGS) for pair in (["CCO", "CCN"], ["CCC", "CCCC"])]
    assert found["fcd_groups"] == 2
    assert found["fcd"] == pytest.approx(sum(pairs) / 2, abs=1e-6)


def test_samples_without_a_molecule_have_figures_all_the_same(fcd):
    found = MoleculeJudge(DRUGS, DRUGS)(["C1CC", "((", ""])
    assert found["valid"] == found["fcd_groups"] == 0
    assert [found[name] for name in ("unique", "novel", "fcd", "diversity")] == [None] * 4


def test_a_scaffold_is_the_rings_and_what_links_them(rdkit):
    """Two molecules of one scaffold, written differently, one of another; of one ring or none the
    scaffold is none, as in MOSES."""
    biphenyl, fused = "c1ccc(-c2ccccc2)cc1", "c1ccc2ccccc2c1"
    drawn = ["Cc1ccc(cc1)c1ccccc1O", "c1ccc(-c2ccccc2)cc1F", "CCc1ccc2ccccc2c1", "Cc1ccccc1", "CCO"]
    assert scaffold_counts(drawn) == {biphenyl: 2, fused: 1}
    assert scaffold_counts(["O=C(NCC)c1ccc(CN2CCOCC2)cc1"]) == {"c1ccc(CN2CCOCC2)cc1": 1}
    with pytest.raises(ValueError, match="'C1CC'"):
        scaffold_counts(["C1CC"])


def test_scaffold_figures_are_those_worked_out_by_hand():
    """(2 * 1 + 1 * 0) / (sqrt(5) * sqrt(10)); of the four real molecules one has a drawn one."""
    drawn, real = {"a": 2, "b": 1}, {"a": 1, "c": 3}
    assert scaffold_similarity(drawn, real) == pytest.approx(2 / math.sqrt(50))
    assert scaffold_similarity(real, real) == pytest.approx(1)
    assert scaffold_coverage(drawn, real) == 1 / 4
    assert scaffold_similarity({}, real) is None and scaffold_coverage(drawn, {}) is None


def test_scaffolds_are_counted_in_groups_of_one_size(fcd):
    """Two groups of two: one with the held-out scaffold of three of four molecules, one without."""
    held_out = ["c1ccc(-c2ccccc2)cc1"] * 3 + ["c1ccc2ccccc2c1"]
    judge = MoleculeJudge((), held_out, fcd_molecules=2)
    found = judge(["Cc1ccc(-c2ccccc2)cc1", "CCO", "C1CC", "CCN", "CCCC", "CC"])
    assert found["scaffolds_found"] == pytest.approx((3 / 4 + 0) / 2)
    assert found["scaffolds"] == pytest.approx(3 / math.sqrt(10))
