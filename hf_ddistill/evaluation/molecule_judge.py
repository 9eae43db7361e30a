"""The judge of molecules written as SMILES.

N samples, V of them valid, U of these distinct.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Self

from torch import Tensor

from hf_ddistill.evaluation.diversity import corpus_entropy, pad_tokens, token_entropy
from hf_ddistill.evaluation.frechet import frechet_distance
from hf_ddistill.evaluation.judge import Figures, Judge, Samples
from hf_ddistill.evaluation.molecules import (
    CITATION,
    bigram_entropy,
    canonical_smiles,
    chemnet_features,
    internal_diversity,
)
from hf_ddistill.evaluation.scaffolds import (
    scaffold_counts,
    scaffold_coverage,
    scaffold_similarity,
)


@dataclass(frozen=True)
class MoleculeJudge(Judge):
    """Figures of SMILES: valid, unique, novel, varied, and near to molecules that are held out.

    valid = V / N,  unique = U / V,  novel = share of the U that are not in the training set

    References:
        Molecular Sets (MOSES): A Benchmarking Platform for Molecular Generation Models
        (Polykovskiy et al., 2018), arXiv:1811.12823.

    Args:
        training: SMILES, or a file with one in each line; novelty is against these.
        held_out: SMILES or a file, for the Fréchet distance.
        fcd_molecules: the size of the groups that the valid samples are cut into for the Fréchet
            distance and the scaffolds, which are means over groups: so all models are compared at
            one size, whatever share of their samples is valid.

    Raises:
        ValueError: if `fcd_molecules` is under 2, or a file is not there.
    """

    id: ClassVar[str] = "molecules"
    citation: ClassVar[str] = CITATION
    primary: ClassVar[str] = "fcd"
    higher_is_better: ClassVar[bool] = False
    takes: ClassVar[str] = "texts"
    packages: ClassVar[tuple[str, ...]] = ("rdkit", "fcd")
    extra: ClassVar[str] = "molecules"

    training: str | tuple[str, ...] = ()
    held_out: str | tuple[str, ...] = ()
    fcd_molecules: int = 1000

    def __post_init__(self) -> None:
        if self.fcd_molecules < 2:
            raise ValueError(
                f"Got fcd_molecules={self.fcd_molecules}; a covariance needs at least 2."
            )
        for name in ("training", "held_out"):
            given = getattr(self, name)
            if not isinstance(given, str):
                object.__setattr__(self, name, tuple(given))
            elif not Path(given).is_file():
                raise ValueError(f"{name} names {given}, which is not a file of SMILES.")

    @cached_property
    def known(self) -> frozenset[str]:
        """Canonical forms of the training set."""
        found = canonical_smiles(_smiles(self.training))
        return frozenset(text for text in found if text is not None)

    @cached_property
    def reference(self) -> Tensor | None:
        """(M, 512) features of the held-out molecules; None where there are none."""
        texts = _smiles(self.held_out)
        return chemnet_features(texts) if texts else None

    @cached_property
    def scaffolds(self) -> Counter[str]:
        """How often each scaffold occurs in the held-out molecules."""
        return scaffold_counts(_smiles(self.held_out))

    def __call__(self, samples: Samples) -> Figures:
        """`valid`, `unique`, `novel`, `diversity`, `fcd` (its groups counted in `fcd_groups`),
        `scaffolds` (their cosine with the held-out ones') and `scaffolds_found` (the share of the
        held-out molecules whose scaffold is in a group) of the valid samples, and of all of them
        `length`, and `entropy`, `corpus_entropy`, `bigram_entropy` in nats of the characters. None
        where too few are left, or nothing is there to compare with.

        Raises:
            ValueError: if there is no sample with two characters, or a held-out string is not a
                molecule.
            ModuleNotFoundError: without RDKit or `fcd`.
        """
        valid = [text for text in canonical_smiles(samples) if text is not None]
        distinct = set(valid)
        groups = self._groups(valid)
        distances = self._distances(groups)
        drawn = [scaffold_counts(group) for group in groups]
        tokens, mask = pad_tokens([[ord(c) for c in text] for text in samples if text])
        novel = len(distinct - self.known) / len(distinct) if valid and self.training else None
        return {
            "valid": len(valid) / len(samples),
            "unique": len(distinct) / len(valid) if valid else None,
            "novel": novel,
            "fcd": _mean(distances),
            "fcd_groups": len(groups),
            "scaffolds": _mean([scaffold_similarity(each, self.scaffolds) for each in drawn]),
            "scaffolds_found": _mean([scaffold_coverage(each, self.scaffolds) for each in drawn]),
            "diversity": internal_diversity(valid) if len(valid) > 1 else None,
            "length": sum(map(len, samples)) / len(samples),
            "entropy": token_entropy(tokens, mask),
            "corpus_entropy": corpus_entropy(tokens, mask),
            "bigram_entropy": bigram_entropy(samples),
        }

    def real(self, samples: int) -> Figures:
        """Those of so many held-out molecules, whose distance to themselves tells nothing."""
        texts = _smiles(self.held_out)[:samples]
        nothing = {"fcd": None, "fcd_groups": 0, "scaffolds": None, "scaffolds_found": None}
        return {**self(texts), **nothing} if len(texts) > 1 else {}

    def _groups(self, valid: Sequence[str]) -> list[Sequence[str]]:
        """The full groups of valid samples; none where there is nothing to compare them with."""
        size = self.fcd_molecules
        starts = range(0, len(valid) - size + 1, size) if self.reference is not None else ()
        return [valid[start : start + size] for start in starts]

    def _distances(self, groups: Sequence[Sequence[str]]) -> list[float]:
        """The Fréchet distance of each group."""
        if not groups:
            return []
        features = chemnet_features([text for group in groups for text in group])
        return [
            frechet_distance(group, self.reference) for group in features.split(self.fcd_molecules)
        ]

    @classmethod
    def example(cls) -> tuple[Self, Samples]:
        """Three molecules and a string that is none."""
        return cls(training=("CCO",)), ["OCC", "CCN", "CCC", "C1CC"]


def _mean(values: Sequence[float | None]) -> float | None:
    """Of those that there are; None of none."""
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None


def _smiles(given: str | tuple[str, ...]) -> tuple[str, ...]:
    """The strings themselves, or those of a file."""
    return tuple(Path(given).read_text().split()) if isinstance(given, str) else given
