"""Molecules written as SMILES: are they molecules, distinct, new, and spread like the real ones?

N samples; V of them valid, in RDKit's canonical form; U of these distinct. A sample counts as it
was drawn: nothing is repaired and nothing is cut. Needs the extra `molecules` (RDKit, and `fcd`,
which carries the weights of ChemNet).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from importlib import resources

import torch
from torch import Tensor

from hf_ddistill.evaluation.frechet import frechet_distance

CITATION = (
    "Polykovskiy et al., Molecular Sets (MOSES): A Benchmarking Platform for Molecular Generation "
    "Models, 2018, arXiv:1811.12823; Preuer et al., Fréchet ChemNet Distance: A Metric for "
    "Generative Models for Molecules in Drug Discovery, 2018, arXiv:1803.09518"
)
#: Of the fingerprints that internal diversity compares; those of MOSES.
RADIUS, BITS = 2, 1024
#: ChemNet reads strings of this length, padded; another one would change its features.
CHEMNET_LENGTH = 350


def canonical_smiles(smiles: Iterable[str]) -> list[str | None]:
    """RDKit's canonical form of each string that is a molecule, None for each that is not.

    The empty string is no molecule, and neither is one with a space in it: RDKit would take what
    follows the space for the name of what stands before it.

    Raises:
        ModuleNotFoundError: without RDKit.
    """
    try:
        from rdkit import Chem, rdBase
    except ModuleNotFoundError as missing:
        raise missing_package("RDKit") from missing
    found = []
    with rdBase.BlockLogs():
        for text in smiles:
            whole = text != "" and not any(c.isspace() for c in text)
            molecule = Chem.MolFromSmiles(text) if whole else None
            found.append(None if molecule is None else Chem.MolToSmiles(molecule))
    return found


def internal_diversity(smiles: Sequence[str]) -> float:
    """1 minus the mean Tanimoto similarity of two different samples; 0 where all are one molecule.

    T(a, b) = |a and b| / |a or b| of Morgan fingerprints (radius 2, 1,024 bits). Takes N^2 memory.

    References:
        Molecular Sets (MOSES): A Benchmarking Platform for Molecular Generation Models
        (Polykovskiy et al., 2018), arXiv:1811.12823; there a sample is also compared with itself.

    Args:
        smiles: N valid strings, N at least 2; one drawn twice counts twice.

    Raises:
        ValueError: if there are fewer than two, or one is not a molecule.
        ModuleNotFoundError: without RDKit.
    """
    try:
        from rdkit import Chem
        from rdkit.Chem import rdFingerprintGenerator
    except ModuleNotFoundError as missing:
        raise missing_package("RDKit") from missing
    _check_valid(smiles)
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=RADIUS, fpSize=BITS)
    rows = [generator.GetFingerprintAsNumPy(Chem.MolFromSmiles(text)) for text in smiles]
    bits = torch.stack([torch.from_numpy(row) for row in rows]).float()
    both, size = bits @ bits.T, bits.sum(1)
    similarity = (both / (size[:, None] + size - both).clamp_min(1)).double()
    count = len(smiles)
    return 1 - float(similarity.sum() - similarity.trace()) / (count * (count - 1))


@torch.no_grad()
def chemnet_features(smiles: Sequence[str], *, batch_size: int = 128) -> Tensor:
    """The last hidden layer of ChemNet, a network that was trained to predict bioactivities.

    Args:
        smiles: N valid strings, of which the canonical form is read.
        batch_size: strings in one forward pass.

    Returns:
        (N, 512) float64.

    Raises:
        ValueError: if there are fewer than two strings, or one is not a molecule or too long.
        ModuleNotFoundError: without RDKit or `fcd`.
    """
    canonical = _check_valid(smiles)
    try:
        from fcd.utils import SmilesDataset, load_imported_model
    except ModuleNotFoundError as missing:
        raise missing_package("fcd") from missing
    longest = max(canonical, key=len)
    if len(longest) >= CHEMNET_LENGTH:
        raise ValueError(
            f"Got a molecule of {len(longest)} characters; ChemNet reads fewer than "
            f"{CHEMNET_LENGTH}."
        )
    with resources.as_file(resources.files("fcd") / "ChemNet_v0.13_pretrained.pt") as path:
        network = load_imported_model(torch.load(path, weights_only=True)).eval()
    dataset = SmilesDataset(canonical, pad_len=CHEMNET_LENGTH)
    batches = []
    for rows in torch.arange(len(canonical)).split(batch_size):
        batch = torch.stack([torch.from_numpy(dataset[row]) for row in rows.tolist()])
        batches.append(network(batch.transpose(1, 2).float()).double())
    return torch.cat(batches)


def frechet_chemnet_distance(smiles: Sequence[str], reference: Sequence[str] | Tensor) -> float:
    """The Fréchet distance between Gaussians fitted to ChemNet's features of two sets.

    It is biased upwards by O(1/N) (two sets of 1,000 held-out molecules of MOSES are 4.2 apart):
    only compare distances that were measured with as many molecules.

    References:
        Fréchet ChemNet Distance: A Metric for Generative Models for Molecules in Drug Discovery
        (Preuer et al., 2018), arXiv:1803.09518.

    Args:
        smiles: valid strings, at least two.
        reference: valid strings, or their `chemnet_features`.

    Raises:
        ValueError, ModuleNotFoundError: as `chemnet_features`.
    """
    if not isinstance(reference, Tensor):
        reference = chemnet_features(reference)
    return frechet_distance(chemnet_features(smiles), reference)


def bigram_entropy(smiles: Iterable[str]) -> float:
    """The entropy in nats of the pairs of neighbouring characters, of all samples together.

    Raises:
        ValueError: if no sample has two characters.
    """
    counts = Counter(pair for text in smiles for pair in zip(text, text[1:], strict=False))
    if not counts:
        raise ValueError("Got no sample of two characters; an entropy of pairs needs one pair.")
    number = torch.tensor(list(counts.values()), dtype=torch.float64)
    return float(torch.special.entr(number / number.sum()).sum())


def _check_valid(smiles: Sequence[str]) -> list[str]:
    """The canonical forms of at least two strings, all of which must be molecules."""
    if len(smiles) < 2:
        raise ValueError(f"Got {len(smiles)} molecules; at least 2 are needed.")
    canonical = canonical_smiles(smiles)
    for text, form in zip(smiles, canonical, strict=True):
        if form is None:
            raise ValueError(f"Got {text!r}, which is not a molecule; leave out invalid strings.")
    return canonical


def missing_package(package: str) -> ModuleNotFoundError:
    """What a figure raises without its package."""
    return ModuleNotFoundError(
        f"Figures of molecules need {package}: pip install 'hf_ddistill[molecules]'."
    )
