"""Can samples be told from real data? A classifier two-sample test, which no model is tuned on.

N samples, M real rows, L tokens.
"""

from __future__ import annotations

import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from hf_ddistill.shapes import Tokens

FOLDS, TREES = 5, 200


def two_sample_auc(samples: Tokens, real: Tokens, seed: int = 0) -> float:
    """The area under the curve of a random forest that tells samples from real rows.

    Each row is judged by a forest that was grown without it (five folds). 0.5 is what two sets of
    one law have, 1 that every row gives itself away. Unlike a Fréchet distance it sees whatever a
    forest can see, samples that are too much alike among it.

    References: Lopez-Paz and Oquab, Revisiting Classifier Two-Sample Tests, 2016, arXiv:1610.06545.

    Args:
        samples: (N, L) int64.
        real: (M, L) int64; of both sets as many rows are looked at, the first ones.
        seed: of the forests and folds.

    Raises:
        ValueError: for rows of another length, or fewer than ten of either.
    """
    count = min(len(samples), len(real))
    if samples.ndim != 2 or samples.shape[1:] != real.shape[1:] or count < 2 * FOLDS:
        raise ValueError(
            f"Got samples of shape {tuple(samples.shape)} and real rows of {tuple(real.shape)}; "
            f"both are (rows, tokens) of one length, with at least {2 * FOLDS} rows."
        )
    rows = torch.cat([samples[:count].cpu(), real[:count].cpu()]).numpy()
    is_real = torch.arange(2 * count).ge(count).numpy()
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    forest = RandomForestClassifier(TREES, random_state=seed)
    scores = cross_val_predict(forest, rows, is_real, cv=folds, method="predict_proba")[:, 1]
    return float(roc_auc_score(is_real, scores))
