"""Judges: what a set of samples is worth, in named figures.

A judge is found by its id, says what it takes, and is set to the model whose samples it is shown.
"""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Self, TypeAlias

import torch
from torch import Tensor

from hf_ddistill.configurable import Configurable

#: Tokens (N, L) int64, N rows of tokens of any lengths, or N texts.
Samples: TypeAlias = Tensor | Sequence[Tensor] | Sequence[str]
Figures: TypeAlias = dict[str, float | None]


@dataclass(frozen=True, eq=False)
class Source:
    """What is known of the model whose samples are judged.

    Args:
        values: how many tokens its data have, masks and the like left out.
        shape: of a sample, (rows, columns) of an image; None where it has none.
        writes_text: whether a tokenizer makes texts of its tokens.
        real: rows of real data (M, L) int64, where there are some.
        device: where a network that judges may run.
    """

    values: int
    shape: tuple[int, ...] | None = None
    writes_text: bool = False
    real: Tensor | None = None
    device: torch.device | str = "cpu"


class Judge(Configurable, ABC):
    """Samples to named figures.

    A member is a frozen dataclass in a file of its own; its fields are its settings.

    Attributes:
        primary: the figure that ranks models.
        higher_is_better: of that figure.
        takes: "tokens" or "texts".
        needs_real: whether it compares with real data, which it is given by `suited_to`.
        packages: beyond those of this package, that it imports.
        extra: of this package, that installs them.
    """

    primary: ClassVar[str]
    higher_is_better: ClassVar[bool]
    takes: ClassVar[Literal["tokens", "texts"]] = "tokens"
    needs_real: ClassVar[bool] = False
    packages: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str] = ""

    @abstractmethod
    def __call__(self, samples: Samples) -> Figures:
        """The figures; None where the samples leave nothing to measure.

        Args:
            samples: at least two.
        """

    @classmethod
    @abstractmethod
    def example(cls) -> tuple[Self, Samples]:
        """A judge that is ready, and a small set of samples that it can be run on."""

    @classmethod
    def claimed(cls, name: str) -> Self | None:
        """The judge that a name means which is no id, such as that of a model; None if none."""
        return None

    def real(self, samples: int) -> Figures:
        """The figures of so many real data; empty where the judge knows none."""
        return {}

    def suited_to(self, source: Source) -> Self:
        """This judge, set to what a model draws.

        Raises:
            ValueError: if it cannot judge that, or a package is missing.
        """
        missing = [name for name in self.packages if importlib.util.find_spec(name) is None]
        if missing:
            raise ValueError(
                f"The judge {self.id!r} needs {', '.join(missing)}: pip install "
                f"'hf_ddistill[{self.extra}]'."
            )
        if self.takes == "texts" and not source.writes_text:
            raise ValueError(f"The judge {self.id!r} takes texts, but this model has no tokenizer.")
        if self.needs_real and source.real is None:
            raise ValueError(f"The judge {self.id!r} compares with real data, and there are none.")
        return self

    @classmethod
    def needs(cls) -> str:
        """What it has to be given, in words."""
        parts = [cls.takes]
        parts += ["real data"] * cls.needs_real
        parts += [f"pip install 'hf_ddistill[{cls.extra}]'"] * bool(cls.extra)
        return ", ".join(parts)
