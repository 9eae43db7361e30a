"""Quality against network calls, and a teacher brought to a student's entropy.

NFE is the number of network calls per sample: what a user pays.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from hf_ddistill.evaluation.diversity import token_entropy


def nfe_frontier(
    sampler: Callable[[int, int], Tensor],
    nfes: Sequence[int],
    num_samples: int,
    judge: Callable[[Tensor], Mapping[str, float]],
) -> list[dict[str, float]]:
    """Judge a sampler at several numbers of network calls.

    Args:
        sampler: (nfe, num_samples) -> tokens (num_samples, L).
        nfes: network calls per sample, distinct and positive.
        num_samples: the same for every row, since a Fréchet distance depends on it.
        judge: tokens -> metrics.

    Returns:
        One row for each of `nfes`, in that order: `{"nfe": nfe, **metrics}`.

    Raises:
        ValueError: on an NFE or a number of samples under 1, an NFE given twice, a sampler that
            returns another number of samples, or a judge with a metric called "nfe".
    """
    if len(nfes) == 0 or min(nfes) < 1 or len(set(nfes)) != len(nfes):
        raise ValueError(f"Got nfes={list(nfes)}; expected distinct numbers of calls, each >= 1.")
    if num_samples < 1:
        raise ValueError(f"Got num_samples={num_samples}; at least one sample must be judged.")
    rows = []
    for nfe in nfes:
        tokens = sampler(nfe, num_samples)
        if len(tokens) != num_samples:
            raise ValueError(f"Asked the sampler for {num_samples} samples, got {len(tokens)}.")
        metrics = judge(tokens)
        if "nfe" in metrics:
            raise ValueError('Got a metric called "nfe" from the judge; the row needs that name.')
        rows.append({"nfe": nfe, **metrics})
    return rows


class EntropyMatch(NamedTuple):
    """The temperature that was found, and the entropy in nats of the samples drawn at it."""

    temperature: float
    entropy: float


def match_entropy(
    sample: Callable[[float], Tensor],
    target_entropy: float,
    *,
    low: float = 0.25,
    high: float = 4.0,
    budget: int = 12,
    tolerance: float = 1e-3,
    entropy: Callable[[Tensor], float] = token_entropy,
) -> EntropyMatch:
    """The temperature at which samples have a given entropy, by bisection of log temperature.

    H(sample(T)) = target_entropy

    A student is compared with its teacher at the same entropy, since sharpening alone improves
    most scores. The entropy must grow with the temperature (or with any other positive knob, such
    as top-p); let `sample` start from the same seed at every call, so that noise does not hide it.

    References:
        Generative Frontiers: Why Evaluation Matters for Diffusion Language Models (Pynadath et
        al., 2026), arXiv:2604.02718.

    Args:
        sample: temperature -> tokens (N, L).
        target_entropy: nats, the student's.
        low: the coldest temperature tried, > 0.
        high: the hottest.
        budget: calls of `sample`, the two ends included.
        tolerance: nats; the search ends early once it is as close as this.
        entropy: tokens -> nats.

    Returns:
        Of all the temperatures tried, the one with the closest entropy, with that entropy.

    Raises:
        ValueError: unless 0 < low < high and budget >= 3; or if the target is not finite or not
            between the entropies at the two ends.
    """
    if not (0 < low < high and budget >= 3 and math.isfinite(target_entropy)):
        raise ValueError(
            f"Got low={low}, high={high}, budget={budget}, target_entropy={target_entropy}; "
            "expected 0 < low < high, budget >= 3 and a finite target."
        )
    tried = [EntropyMatch(t, float(entropy(sample(t)))) for t in (low, high)]
    if not tried[0].entropy <= target_entropy <= tried[1].entropy:
        raise ValueError(
            f"target_entropy={target_entropy:.4f} is not between {tried[0].entropy:.4f} at "
            f"temperature {low} and {tried[1].entropy:.4f} at {high}; widen low and high."
        )

    def gap(match: EntropyMatch) -> float:
        return abs(match.entropy - target_entropy)

    while len(tried) < budget and gap(min(tried, key=gap)) > tolerance:
        middle = math.sqrt(low * high)
        tried.append(EntropyMatch(middle, float(entropy(sample(middle)))))
        if tried[-1].entropy < target_entropy:
            low = middle
        else:
            high = middle
    return min(tried, key=gap)
