"""How easily the samples of a model are told from rows of the data, as whole rows.

h(x, y) is the number of positions at which two rows differ, m its median between rows of the data.
A ridge regression on the kernel exp(-4 h / m) is taught which of both a row is, and asked about
rows that it has not seen (five-fold cross-validation). The figure is the probability that it takes
a row of the data for one more likely than a sample, the area under its curve (AUC): 1/2 where
nothing tells them apart, and 1 where all does. It needs no network.

Unlike `likeness`, which asks for the frequencies of single tokens, pairs and triples, it asks what
goes together in a row.

References: its standard error, DeLong, DeLong, Clarke-Pearson, Comparing the areas under two or
more correlated receiver operating characteristic curves, 1988, https://doi.org/10.2307/2531595.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hf_ddistill.shapes import Tokens
from hf_ddistill.training.likeness import Rows

SHARPNESS, RIDGE, FOLDS = 4.0, 1e-2, 5
#: Rows of the data whose distances to each other are the scale.
SCALED = 200


@dataclass(frozen=True)
class ToldApart:
    """Samples against rows of the data.

    Args:
        of_rows: (N,), for each sample the share of the data that are taken for data more likely.
        of_data: (M,), for each row of the data the share of samples that it is so against.
    """

    of_rows: Tensor
    of_data: Tensor

    @property
    def auc(self) -> float:
        """At least 1/2: what is below is chance."""
        return max(float(self.of_rows.mean()), 0.5)

    def beyond(self, other: ToldApart) -> tuple[float, float]:
        """How much more easily they are told from the same data than others, and the standard
        error of it."""
        parts = (self.of_rows, other.of_rows, self.of_data - other.of_data)
        error = sum(float(part.var()) / len(part) for part in parts) ** 0.5
        return self.auc - other.auc, error


def told_apart(rows: Rows, data: Rows) -> ToldApart:
    """Judge samples (at least ten) against as many rows of the data, from everywhere in them."""
    length = max(rows.tokens.shape[1], data.tokens.shape[1])
    own, real = (_alone(each.padded(length)) for each in (rows, data))
    count = min(len(own), len(real))
    real = real[torch.arange(count) * len(real) // count]
    some = real[torch.arange(min(SCALED, count)) * count // min(SCALED, count)]
    median = float(_differing(some, some).median().clamp_min(1))
    both = torch.cat([own, real])
    gram = (-SHARPNESS * _differing(both, both) / median).exp()
    label = torch.ones(len(both), dtype=torch.float64)
    label[: len(own)] = -len(real) / len(own)
    score = _scores(gram, label, _folds(len(own), len(real)))
    above = score[len(own) :][None] - score[: len(own)][:, None]
    won = (above > 0).double() + 0.5 * (above == 0).double()
    return ToldApart(won.mean(1), won.mean(0))


def _alone(rows: Rows) -> Tokens:
    """Tokens, alike everywhere where they do not count."""
    return rows.tokens.masked_fill(~rows.where, -1)


def _differing(one: Tokens, other: Tokens) -> Tensor:
    """h of each row of one and each of the other, float64."""
    return torch.stack([(other != row).sum(1) for row in one]).double()


def _folds(*counts: int) -> Tensor:
    """Which part each row is of, as many of each kind in all of them."""
    generator = torch.Generator().manual_seed(0)
    return torch.cat([torch.randperm(count, generator=generator) % FOLDS for count in counts])


def _scores(gram: Tensor, label: Tensor, fold: Tensor) -> Tensor:
    """What is said of each row by a regression that has seen the other parts."""
    score = torch.zeros_like(label)
    for number in range(FOLDS):
        seen, asked = fold != number, fold == number
        inner = gram[seen][:, seen]
        mean = inner.mean(0)
        centred = inner - mean - mean[:, None] + inner.mean()
        ridge = RIDGE * centred.diagonal().mean().clamp_min(1e-12)
        kernel = centred + ridge * torch.eye(len(mean), dtype=torch.float64)
        weight = torch.linalg.solve(kernel, label[seen] - label[seen].mean())
        score[asked] = (gram[asked][:, seen] - mean) @ (weight - weight.mean())
    return score
