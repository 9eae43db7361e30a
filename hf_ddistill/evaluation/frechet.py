"""The Fréchet distance between two sets of feature vectors.

N, M samples; D features; m mean, C covariance (unbiased), both float64.
"""

from __future__ import annotations

import datasets
import evaluate
import torch
from torch import Tensor

CITATION = (
    "Heusel et al., GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash "
    "Equilibrium, 2017, arXiv:1706.08500"
)


def frechet_distance(features_a: Tensor, features_b: Tensor) -> float:
    """The squared 2-Wasserstein distance between the Gaussians fitted to two sets of features.

    FD = |m_a - m_b|^2 + tr C_a + tr C_b - 2 tr (C_a^{1/2} C_b C_a^{1/2})^{1/2}

    The last trace is the sum of the singular values of C_a^{1/2} C_b^{1/2}: real and symmetric in
    the two sets also where a covariance is singular (N <= D), unlike a square root of C_a C_b.

    It is biased upwards by O(1/N): only compare distances that were measured with as many samples.

    References:
        GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium
        (Heusel et al., 2017), arXiv:1706.08500.

    Args:
        features_a: (N, D).
        features_b: (M, D); M need not be N.

    Raises:
        ValueError: on fewer than two rows, a NaN or infinity, or a different number of features.
    """
    mean_a, covariance_a = _moments(features_a, "features_a")
    mean_b, covariance_b = _moments(features_b, "features_b")
    if mean_a.shape != mean_b.shape:
        raise ValueError(
            f"Got {mean_a.shape[0]} features in features_a and {mean_b.shape[0]} in features_b; "
            "both must come from the same feature extractor."
        )
    roots = _square_root(covariance_a) @ _square_root(covariance_b)
    overlap = torch.linalg.svdvals(roots).sum()
    spread = covariance_a.trace() + covariance_b.trace() - 2 * overlap
    # Both terms are non-negative; rounding alone can bring the second below zero.
    return float((mean_a - mean_b).square().sum() + spread.clamp_min(0.0))


def _moments(features: Tensor, name: str) -> tuple[Tensor, Tensor]:
    if features.ndim != 2 or features.shape[0] < 2:
        raise ValueError(
            f"Got {name} of shape {tuple(features.shape)}; a covariance needs (samples, features) "
            "with at least 2 samples."
        )
    features = features.detach().to(torch.float64)
    if not bool(features.isfinite().all()):
        raise ValueError(f"Got {name} with NaN or infinity; every feature must be finite.")
    return features.mean(0), torch.atleast_2d(torch.cov(features.T))


def _square_root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp_min(0.0).sqrt()) @ vectors.T


class FrechetDistance(evaluate.Metric):
    """`frechet_distance` as a metric: `compute(predictions=..., references=...)` -> `{"fd": ...}`.

    FD = |m_a - m_b|^2 + tr C_a + tr C_b - 2 tr (C_a^{1/2} C_b C_a^{1/2})^{1/2}

    `evaluate` keeps predictions and references as two columns of one table, so here there must be
    as many of the one as of the other; `frechet_distance` takes any two numbers of samples.

    References:
        GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium
        (Heusel et al., 2017), arXiv:1706.08500.
    """

    def _info(self) -> evaluate.MetricInfo:
        vector = datasets.Sequence(datasets.Value("float64"))
        return evaluate.MetricInfo(
            description="Fréchet distance between Gaussians fitted to two sets of features.",
            citation=CITATION,
            inputs_description="predictions, references: lists of feature vectors, N each.",
            features=datasets.Features({"predictions": vector, "references": vector}),
            reference_urls=["https://arxiv.org/abs/1706.08500"],
        )

    def _compute(
        self, predictions: list[list[float]], references: list[list[float]]
    ) -> dict[str, float]:
        return {"fd": frechet_distance(_to_matrix(predictions), _to_matrix(references))}


def _to_matrix(rows: list[list[float]]) -> Tensor:
    widths = sorted({len(row) for row in rows})
    if len(widths) != 1:
        raise ValueError(f"Got feature vectors of lengths {widths}; all must be equally long.")
    return torch.tensor(rows, dtype=torch.float64)
