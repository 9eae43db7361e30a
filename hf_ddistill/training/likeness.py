"""How near the samples of a model are to the data, and how varied they are, by what they share.

k(x, y): the share of positions at which two rows have the same g tokens in a row, as the mean over
g = 1, 2, 3. x, x' samples, y, y' rows of the data, T those of a teacher:

    distance = E k(x, x') - 2 E k(x, y) + E k(y, y')

which is 0 for samples of the law of the data and counts frequencies, pairs and triples of tokens by
their place (the squared maximum mean discrepancy; Gretton et al., A Kernel Two-Sample Test, 2012,
https://jmlr.org/papers/v13/gretton12a.html, equation 3). It needs no network.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from hf_ddistill.couplings import histogram_entropy
from hf_ddistill.shapes import Tokens, Where

GRAMS = (1, 2, 3)
#: Below them a reference has nothing to be lost: nats, and a probability.
NO_ENTROPY, NO_LIKENESS = 0.05, 1e-4


@dataclass(frozen=True)
class Rows:
    """Tokens (N, L), and where they count, (N, L)."""

    tokens: Tokens
    where: Where

    def padded(self, length: int) -> Rows:
        """The same as (N, length)."""
        more = (0, length - self.tokens.shape[1])
        return Rows(pad(self.tokens, more), pad(self.where, more))


@dataclass(frozen=True)
class Likeness:
    """Rows beside those of the data.

    Args:
        entropy: of one histogram of their tokens, nats.
        spread: -log of the probability that two of the rows agree at a position, nats.
        within: E k(x, x').
        across: E k(x, y).
        of_rows: (N,), what each row adds to the distance, up to a constant.
        of_data: (M,), the same of the rows of the data.
        rows: they themselves.
    """

    entropy: float
    spread: float
    within: float
    across: float
    of_rows: Tensor
    of_data: Tensor
    rows: Rows

    @property
    def distance(self) -> float:
        """E k(x, x') - 2 E k(x, y): that to the data, less E k(y, y'), which all samples share."""
        return self.within - 2 * self.across

    def beyond(self, other: Likeness, paired: bool = False) -> tuple[float, float]:
        """How much farther from the same data than others, and the standard error of it; if
        `paired`, of rows that were drawn with the same noise each, which are alike."""
        rows = (self.of_rows - other.of_rows,) if paired else (self.of_rows, other.of_rows)
        parts = (*rows, self.of_data - other.of_data)
        error = sum(float(part.var()) / len(part) for part in parts) ** 0.5
        return self.distance - other.distance, error

    def shares(self, teacher: Likeness, data: Likeness) -> dict[str, tuple[float, float]]:
        """What is left of each figure, as (the figure, what it is held against), by its name.

        Entropies are held against the smaller of the teacher's and the data's: samples that become
        as alike as the data are have lost nothing.
        """
        found = {
            "entropy": (self.entropy, min(teacher.entropy, data.entropy)),
            "spread": (self.spread, min(teacher.spread, data.spread)),
            "likeness": (self.across, teacher.across),
        }
        least = {"entropy": NO_ENTROPY, "spread": NO_ENTROPY, "likeness": NO_LIKENESS}
        return {name: pair for name, pair in found.items() if pair[1] >= least[name]}


def likeness(rows: Rows, data: Rows, vocab_size: int) -> Likeness:
    """Measure rows (at least two) beside those of the data, or the data by themselves."""
    same = rows is data
    own, first = _shared(rows, rows)
    across = own if same else _shared(rows, data)[0]
    count = len(rows.tokens)
    others = (own.sum(1) - own.diagonal()) / (count - 1)
    agree = (first.sum() - first.diagonal().sum()) / (count * (count - 1))
    mean = others if same else across.mean(1)
    return Likeness(
        entropy=float(histogram_entropy(rows.tokens, rows.where, vocab_size)),
        spread=float(-agree.clamp_min(1e-12).log()),
        within=float(others.mean()),
        across=float(mean.mean()),
        of_rows=2 * (others - mean),
        of_data=-2 * across.mean(0),
        rows=rows,
    )


def _shared(one: Rows, other: Rows) -> tuple[Tensor, Tensor]:
    """k of each row of one and each of the other (N, M) float64, and the share of positions at
    which they agree, alike."""
    length = max(one.tokens.shape[1], other.tokens.shape[1])
    one, other = one.padded(length), other.padded(length)
    k, first = [], []
    for tokens, where in zip(one.tokens, one.where, strict=True):
        both = other.where & where
        alike = both & (other.tokens == tokens)
        shares, run, real = [], alike, both
        for g in GRAMS:
            if g > 1:
                run, real = run[:, :-1] & alike[:, g - 1 :], real[:, :-1] & both[:, g - 1 :]
            shares.append(run.sum(1).double() / real.sum(1).clamp_min(1))
        k.append(torch.stack(shares).mean(0))
        first.append(shares[0])
    return torch.stack(k), torch.stack(first)
