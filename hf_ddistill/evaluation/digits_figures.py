"""All figures of generated digits, and of real ones at the same sample count."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_ddistill.evaluation.digits_judge import DigitsJudge, DigitSplit, judge_real, judge_samples
from hf_ddistill.evaluation.diversity import pairwise_distance
from hf_ddistill.evaluation.two_sample import FOLDS, two_sample_auc


def digit_figures(judge: DigitsJudge, tokens: Tensor, real: Tensor) -> dict[str, float]:
    """Those of `judge_samples`, the mean distance between two samples, `pairwise`, and the
    two-sample `auc` (from ten samples on).

    Args:
        judge: of the same number of levels.
        tokens: (N, 64) samples.
        real: (M, 64), the digits that were trained on.
    """
    figures = {**judge_samples(judge, tokens, real), "pairwise": pairwise_distance(tokens)}
    if len(tokens) >= 2 * FOLDS:
        figures["auc"] = two_sample_auc(tokens, _shuffled(real))
    return figures


def real_figures(judge: DigitsJudge, split: DigitSplit, samples: int) -> dict[str, float]:
    """What `samples` new real digits would have: see `judge_real`; the AUC of two halves."""
    real = split.train_tokens
    figures = judge_real(
        judge,
        real,
        generator=torch.Generator().manual_seed(0),
        labels=split.train_labels,
        samples=samples,
    )
    auc = two_sample_auc(*_shuffled(real).chunk(2))
    return {**figures, "pairwise": pairwise_distance(real), "auc": auc}


def _shuffled(real: Tensor) -> Tensor:
    return real[torch.randperm(len(real), generator=torch.Generator().manual_seed(0))]
