"""The judge that nobody tunes on: can a forest tell samples from real rows?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from hf_ddistill.evaluation.judge import Figures, Judge, Samples, Source
from hf_ddistill.evaluation.two_sample import two_sample_auc


@dataclass(frozen=True, eq=False)
class TwoSampleJudge(Judge):
    """A random forest tells samples from real rows: 0.5 if it cannot, 1 if it always can.

    References: Lopez-Paz and Oquab, Revisiting Classifier Two-Sample Tests, 2016, arXiv:1610.06545.

    Args:
        reference: real rows (M, L) int64; those of the data that `suited_to` brings if None.
        seed: of the forests and folds.
    """

    id: ClassVar[str] = "two_sample"
    primary: ClassVar[str] = "auc"
    higher_is_better: ClassVar[bool] = False
    needs_real: ClassVar[bool] = True

    reference: Tensor | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.reference is not None:
            object.__setattr__(self, "reference", torch.as_tensor(self.reference))

    def __call__(self, samples: Samples) -> Figures:
        """`auc` of (N, L) tokens.

        Raises:
            ValueError: without real rows, for rows of another length, or fewer than ten of either.
        """
        if self.reference is None:
            raise ValueError(f"The judge {self.id!r} compares with real data, and there are none.")
        order = torch.randperm(len(self.reference), generator=torch.Generator().manual_seed(0))
        return {"auc": two_sample_auc(samples, self.reference[order], self.seed)}

    def suited_to(self, source: Source) -> Self:
        """With the real rows that the source has, unless it has its own."""
        if self.reference is not None:
            source = replace(source, real=self.reference)
        return replace(super().suited_to(source), reference=source.real)

    @classmethod
    def example(cls) -> tuple[Self, Samples]:
        """Random bits against random bits."""
        rows = torch.randint(2, (24, 6), generator=torch.Generator().manual_seed(0))
        return cls(rows[:12]), rows[12:]
