"""Molecules as rows of pieces: there and back."""

from __future__ import annotations

import importlib

import pytest


@pytest.fixture
def pieces():
    return importlib.import_module("molecule_pieces")


MOLECULES = (
    "COc1ccc(F)cc1",
    "Cc1cc(CC2COCC2NC(=O)CCN2CCCCC2=O)on1",
    "CC1C2CCC(C2)C1CN(CCO)C(=O)c1ccc(Cl)cc1",
    "COc1ccc(-c2cc(=O)c3c(O)c(OC)c(OC)cc3o2)cc1O",
    "CCCS(=O)c1ccc2[nH]c(=NC(=O)OC)[nH]c2c1",
    "CC(C)=CCC#N",
    "C",
)


def test_a_molecule_is_cut_at_its_single_bonds_outside_rings(pieces):
    assert pieces.pieces_of("COc1ccc(F)cc1") == ["C*", "O*", "c1ccc(*)cc1", "F"]
    assert pieces.pieces_of("CC(C)(C)N2CC2") == ["C*", "C(*)(*)*", "C", "C", "N1CC1"]
    assert pieces.pieces_of("c1ccc(-c2ccccc2)cc1") == ["c1ccc(*)cc1", "c1ccccc1"]
    assert pieces.pieces_of("C1CC1=C2CC2") == ["C1CC1=C2CC2"]  # a double bond holds


def test_rings_of_one_number_that_are_open_at_once_get_numbers_of_their_own(pieces):
    """The second ring hangs inside the first, both of which call themselves 1."""
    assert pieces.smiles_of(["c1ccc(*)cc1", "c1ccccc1"]) == "c1ccc(c2ccccc2)cc1"
    eleven = pieces.smiles_of([*["C1CC1*"] * 10, "C1CC1"])
    assert eleven.startswith("C1CC1C2CC2") and eleven.endswith("C%11CC%11")


@pytest.mark.parametrize("row", [[], ["C*"], ["C", "C"], ["C(*)*", "C"], ["O", "C*", "C"]], ids=str)
def test_a_star_left_empty_or_a_piece_left_over_is_no_molecule(pieces, row):
    assert pieces.smiles_of(row) is None


def test_tokens_give_back_the_molecule_that_they_were_made_of(pieces):
    chem = pytest.importorskip("rdkit.Chem")
    rows = [pieces.pieces_of(smiles) for smiles in MOLECULES]
    vocabulary = pieces.Vocabulary.of(rows, 100)
    for smiles, row in zip(MOLECULES, rows, strict=True):
        back = vocabulary.smiles(vocabulary.tokens(row, 14))
        assert chem.CanonSmiles(back) == chem.CanonSmiles(smiles)


def test_behind_each_piece_stands_how_many_stars_are_empty(pieces):
    row = ["C*", "C(*)*", "F", "N(*)*", "O", "C"]
    assert pieces.counted(row) == ["C*|1", "C(*)*|2", "F|1", "N(*)*|2", "O|1", "C|0"]


def test_only_rows_of_known_pieces_that_fit_have_tokens(pieces):
    vocabulary = pieces.Vocabulary.of([["C*", "O"], ["C*", "N"], ["C*", "O"]], 4)
    assert vocabulary.names == ["_", "C*|1", "O|0", "?"]
    assert vocabulary.tokens(["C*", "O"], 3) == [1, 2, 0]
    assert vocabulary.tokens(["C*", "N"], 3) is None
    assert vocabulary.tokens(["C*", "C*", "O"], 2) is None
    assert vocabulary.smiles([1, 2, 0]) == "CO"


@pytest.mark.parametrize("tokens", [[1, 0, 2], [0, 0, 0], [1, 1, 0], [1, 3, 0], [2, 2, 0]], ids=str)
def test_padding_inside_a_row_or_a_mask_left_makes_no_molecule(pieces, tokens):
    """Nor do stars and pieces that do not agree; what is put out is no SMILES."""
    vocabulary = pieces.Vocabulary.of([["C*", "O"], ["C*", "O"]], 4)
    text = vocabulary.smiles(tokens)
    assert text == "" or " " in text or "*" in text
