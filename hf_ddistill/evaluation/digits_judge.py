"""The judge of handwritten digits: a small classifier's features, copies, and what a forest sees.

N samples of 64 = 8 x 8 pixels, `levels` values for each.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Self

from hf_ddistill.evaluation.digits_classifier import DigitsClassifier
from hf_ddistill.evaluation.digits_data import DigitSplit, load_digit_tokens, split_digits
from hf_ddistill.evaluation.digits_figures import digit_figures, real_figures
from hf_ddistill.evaluation.judge import Figures, Judge, Samples, Source


@dataclass(frozen=True)
class DigitsJudge(Judge):
    """Figures of 8 x 8 digits against those of scikit-learn: Fréchet distance, confidence, copies.

    The classifier behind the first two is trained in seconds, when it is first asked.

    References:
        GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium
        (Heusel et al., 2017), arXiv:1706.08500: the distance; the features are our own.

    Args:
        levels: values per pixel, 2 to 17.
        seed: of the classifier's weights and batches.

    Raises:
        ValueError: for another number of levels.
    """

    id: ClassVar[str] = "digits"
    primary: ClassVar[str] = "fd"
    higher_is_better: ClassVar[bool] = False

    levels: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        if not 2 <= self.levels <= 17:
            raise ValueError(f"Digits have 2 to 17 levels, got levels={self.levels}.")

    @cached_property
    def classifier(self) -> DigitsClassifier:
        """Trained on the training digits."""
        return DigitsClassifier.fit(self.levels, self.seed)

    @cached_property
    def split(self) -> DigitSplit:
        """The digits; samples are compared with those that are trained on."""
        return split_digits(*load_digit_tokens(self.levels))

    def __call__(self, samples: Samples) -> Figures:
        """What `digit_figures` tells of (N, 64) tokens.

        Raises:
            ValueError: if a token is no level, or there are under two samples.
        """
        return digit_figures(self.classifier, samples, self.split.train_tokens)

    def real(self, samples: int) -> Figures:
        """What so many new real digits would have: see `real_figures`."""
        return real_figures(self.classifier, self.split, samples)

    def suited_to(self, source: Source) -> Self:
        """The judge of as many levels as the model has."""
        if source.shape != (8, 8):
            raise ValueError(
                f"The judge {self.id!r} judges images of 8 x 8, which this model has not."
            )
        return replace(super().suited_to(source), levels=source.values)

    @classmethod
    def example(cls) -> tuple[Self, Samples]:
        """Twenty real digits."""
        return cls(), load_digit_tokens(2)[0][:20]
