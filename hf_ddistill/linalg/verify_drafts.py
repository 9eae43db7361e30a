"""Rejection sampling of drafted tokens: what is kept has the law that it is verified by.

d_1, d_2, ... drafted tokens, q_j the law that d_j was drawn from, p_j that which it is to have,
given d_1 .. d_(j-1).
"""

from __future__ import annotations

import torch
from torch import Tensor

from hf_ddistill.linalg.draw import bernoulli, categorical
from hf_ddistill.shapes import Generators


def verify_drafts(
    drafts: Tensor, q: Tensor, p: Tensor, count: Tensor, generator: Generators = None
) -> tuple[Tensor, Tensor]:
    """How many drafts of each row are kept, from the first on, and the token behind them.

    d_j is kept with probability min(1, p_j(d_j) / q_j(d_j)). At the first that is not, a token is
    drawn from (p_j - q_j)_+ / sum (p_j - q_j)_+, and what was drafted behind it is dropped; if all
    are kept, one more is drawn from the next p. So a token y has the probability min(p, q)(y) +
    (1 - sum min(p, q)) (p - q)_+(y) / sum (p - q)_+ = p(y), whatever q is: each has the law p given
    those before it. Of one draft sum min(p, q) = 1 - TV(p, q) is kept in expectation.

    References: Leviathan et al., Fast Inference from Transformers via Speculative Decoding, 2022,
    arXiv:2211.17192; Chen et al., Accelerating Large Language Model Decoding with Speculative
    Sampling, 2023, arXiv:2302.01318.

    Args:
        drafts: (N, k) int64.
        q: (N, k, K), probabilities.
        p: (N, k + 1, K), probabilities.
        count: (N,), how many of the k count in each row; the token behind them is drawn from
            `p[:, count]`.
        generator: one, or one for each row.

    Returns:
        (N,) int64 twice: the number that is kept, at most `count`, and the token.
    """
    rows, place = torch.arange(len(drafts), device=drafts.device), drafts[..., None]
    theirs, ours = (law[:, : drafts.shape[1]].gather(-1, place)[..., 0] for law in (p, q))
    counts = torch.arange(drafts.shape[1], device=drafts.device) < count[:, None]
    chance = torch.where(counts, theirs / ours.clamp_min(1e-300), 0.0).clamp(0, 1)
    kept = bernoulli(chance, generator).long().cumprod(1).sum(1)
    law = p[rows, kept]
    if not drafts.shape[1]:
        return kept, categorical(law, generator)
    drafted = q[rows, kept.clamp_max(drafts.shape[1] - 1)]
    rest = (law - drafted).clamp_min(0)
    # Of two laws that are equal up to rounding nothing is left over.
    refused = (kept < count) & (rest.sum(-1) > 0)
    return kept, categorical(torch.where(refused[:, None], rest, law), generator)
