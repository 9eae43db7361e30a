"""Names for the shapes that travel through the house.

B batch, L sequence length, K vocabulary size (mask included, where there is one). A time is in [0,
1]: 0 is data, 1 is noise. Log-probabilities are natural logarithms.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TypeAlias

from jaxtyping import Bool, Float, Int64
from torch import Generator, Tensor

Tokens: TypeAlias = Int64[Tensor, "B L"]
Times: TypeAlias = Float[Tensor, "B"]
Probs: TypeAlias = Float[Tensor, "B L K"]
LogProbs: TypeAlias = Float[Tensor, "B L K"]
Where: TypeAlias = Bool[Tensor, "B L"]
Index: TypeAlias = Int64[Tensor, "N"]
PerToken: TypeAlias = Float[Tensor, "B L"]
Scalar: TypeAlias = Float[Tensor, ""]
#: A matrix as a member of a family takes it: a tensor, or the nested lists of a JSON file.
Matrix: TypeAlias = Tensor | Sequence[Sequence[float | int]]


class Chooser(ABC):
    """Stands for the generators of a batch's rows and says itself which tokens are drawn, such as
    in the exact laboratory, which follows them all.

    `categorical` and `bernoulli` ask it. It has no numbers: what draws them by hand, as
    `uniform_noise` does, raises a ValueError.
    """

    @abstractmethod
    def choose(self, probs: Tensor) -> Tensor:
        """Tokens (R, ...) for distributions (R, ..., K) of its R rows, with mass and finite."""

    @abstractmethod
    def of(self, rows: Tensor) -> Chooser:
        """That of some of its rows, given by their numbers; what is drawn there counts here."""


#: Of a batch: one for all rows, or one for each.
Generators: TypeAlias = Generator | Sequence[Generator] | Chooser | None

#: What stands for log 0: finite, so that 0 * log 0 is 0 and a gradient through it is not NaN.
LOG_ZERO = -1.0e6
