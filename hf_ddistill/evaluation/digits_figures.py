"""All figures of generated digits, and of real ones at the same sample count.

N samples, M real images of 64 = 8 x 8 pixels.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from hf_ddistill.evaluation.digits_classifier import DigitsClassifier
from hf_ddistill.evaluation.digits_data import DigitSplit
from hf_ddistill.evaluation.diversity import (
    class_entropy,
    nearest_distance,
    pairwise_distance,
    unique_fraction,
)
from hf_ddistill.evaluation.frechet import frechet_distance
from hf_ddistill.evaluation.two_sample import FOLDS, two_sample_auc


def digit_figures(classifier: DigitsClassifier, tokens: Tensor, real: Tensor) -> dict[str, float]:
    """Those of `judge_samples`, the mean distance between two samples, `pairwise`, and the
    two-sample `auc` (from ten samples on).

    Args:
        classifier: of the same number of levels.
        tokens: (N, 64) samples.
        real: (M, 64), the digits that were trained on.
    """
    figures = {**judge_samples(classifier, tokens, real), "pairwise": pairwise_distance(tokens)}
    if len(tokens) >= 2 * FOLDS:
        figures["auc"] = two_sample_auc(tokens, _shuffled(real))
    return figures


def real_figures(classifier: DigitsClassifier, split: DigitSplit, samples: int) -> dict[str, float]:
    """What `samples` new real digits would have: see `judge_real`; the AUC of two halves."""
    real = split.train_tokens
    figures = judge_real(
        classifier,
        real,
        generator=torch.Generator().manual_seed(0),
        labels=split.train_labels,
        samples=samples,
    )
    auc = two_sample_auc(*_shuffled(real).chunk(2))
    return {**figures, "pairwise": pairwise_distance(real), "auc": auc}


def _shuffled(real: Tensor) -> Tensor:
    return real[torch.randperm(len(real), generator=torch.Generator().manual_seed(0))]


def judge_samples(classifier: DigitsClassifier, samples: Tensor, real: Tensor) -> dict[str, float]:
    """What a set of generated digits is worth.

    Args:
        classifier: of the same number of levels.
        samples: (N, 64) int64.
        real: (M, 64) int64, the images that the generator was trained on.

    Returns:
        `fd`: Fréchet distance to `real`; `confidence`: mean largest class probability;
        `class_entropy`: nats, at most log 10; `unique`: share of distinct samples;
        `novelty`: mean distance to the nearest of `real`, the number of pixels that differ for
        2 levels, the sum of their differences (L1) for 17. A copyist has `fd` 0 and `novelty` 0.

    Raises:
        ValueError: if a token is not a level, or there are under two samples.
    """
    novelty = nearest_distance(samples.cpu(), real.cpu(), distance="l1")
    return {
        "fd": frechet_distance(classifier.features(samples), classifier.features(real)),
        **_appearance(classifier, samples),
        "novelty": float(novelty.mean()),
    }


def judge_real(
    classifier: DigitsClassifier,
    real: Tensor,
    splits: int = 8,
    generator: torch.Generator | None = None,
    labels: Tensor | None = None,
    samples: int | None = None,
) -> dict[str, float]:
    """The same keys for real digits: what `judge_samples` would say of a perfect generator.

    `fd` is the mean over random splits of the distance between two halves of `real`, `novelty` the
    mean distance to the nearest *other* image.

    A Fréchet distance of two sets of one law goes with 1 / N + 1 / M, so that the halves' is
    greater than that of N = `samples` new digits to all M of `real`: with `samples` it is what
    these would have.

    Args:
        classifier: of the same number of levels.
        real: (M, 64) int64.
        splits: how many times `real` is halved at random.
        generator: of the halves.
        labels: (M,), with which the halves have as many of each class; None if they need not.
        samples: N; None for the distance of the halves as it is.

    Raises:
        ValueError: if `splits` is under 1 or there are fewer than four images.
    """
    if splits < 1:
        raise ValueError(f"Got splits={splits}; the mean over random halves needs at least one.")
    features = classifier.features(real)
    distances = []
    for a, b in _halves(len(features), splits, generator, labels):
        distances.append(frechet_distance(features[a], features[b]))
    fd = sum(distances) / splits
    if samples is not None:
        fd *= (1 / samples + 1 / len(real)) / (2 / (len(real) // 2))
    novelty = nearest_distance(real.cpu(), real.cpu(), distance="l1", exclude_self=True)
    return {"fd": fd, **_appearance(classifier, real), "novelty": float(novelty.mean())}


def _halves(
    count: int, splits: int, generator: torch.Generator | None, labels: Tensor | None
) -> Iterator[tuple[Tensor, Tensor]]:
    for _ in range(splits):
        order = torch.randperm(count, generator=generator)
        if labels is None:
            yield order[: count // 2], order[count // 2 :]
        else:
            order = order[labels[order].argsort(stable=True)]
            yield order[::2], order[1::2]


def _appearance(classifier: DigitsClassifier, tokens: Tensor) -> dict[str, float]:
    probs = classifier.probabilities(tokens)
    return {
        "confidence": float(probs.amax(-1).mean()),
        "class_entropy": class_entropy(probs),
        "unique": unique_fraction(tokens),
    }
