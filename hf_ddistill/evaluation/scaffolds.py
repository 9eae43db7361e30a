"""Scaffolds of molecules: their rings and what links them, without what hangs at them.

Counts a_s and b_s of each scaffold s in two sets of molecules. Needs RDKit.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping

from hf_ddistill.evaluation.molecules import missing_package

#: Scaffolds of fewer rings are none: as in MOSES.
FEWEST_RINGS = 2


def scaffold_counts(smiles: Iterable[str]) -> Counter[str]:
    """How often each Bemis-Murcko scaffold of two rings or more occurs, in canonical form.

    References:
        The Properties of Known Drugs. 1. Molecular Frameworks (Bemis, Murcko, 1996),
        https://doi.org/10.1021/jm9602928

    Raises:
        ValueError: if a string is not a molecule.
        ModuleNotFoundError: without RDKit.
    """
    try:
        from rdkit import Chem, rdBase
        from rdkit.Chem.Scaffolds import MurckoScaffold
    except ModuleNotFoundError as missing:
        raise missing_package("RDKit") from missing
    counts: Counter[str] = Counter()
    with rdBase.BlockLogs():
        for text in smiles:
            molecule = Chem.MolFromSmiles(text)
            if molecule is None:
                raise ValueError(
                    f"Got {text!r}, which is not a molecule; leave out invalid strings."
                )
            scaffold = MurckoScaffold.GetScaffoldForMol(molecule)
            if scaffold.GetRingInfo().NumRings() >= FEWEST_RINGS:
                counts[Chem.MolToSmiles(scaffold)] += 1
    return counts


def scaffold_similarity(one: Mapping[str, int], other: Mapping[str, int]) -> float | None:
    """The cosine of two counts, "Scaf" of MOSES: sum a_s b_s / sqrt(sum a_s^2 sum b_s^2); None
    where there are none.

    References:
        Molecular Sets (MOSES): A Benchmarking Platform for Molecular Generation Models
        (Polykovskiy et al., 2018), arXiv:1811.12823.
    """
    norms = [math.sqrt(sum(n * n for n in counts.values())) for counts in (one, other)]
    if 0 in norms:
        return None
    return sum(n * other.get(name, 0) for name, n in one.items()) / (norms[0] * norms[1])


def scaffold_coverage(drawn: Mapping[str, int], real: Mapping[str, int]) -> float | None:
    """The share of the real molecules (of those with a scaffold) whose scaffold was drawn; None
    where there are none. It grows with the number of draws."""
    whole = sum(real.values())
    return sum(n for name, n in real.items() if name in drawn) / whole if whole else None
