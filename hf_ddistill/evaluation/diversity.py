"""How varied a set of samples is: entropies in nats, distinct samples, distance to the nearest one.

N samples, M references, L positions, C classes. A mask is True where a token counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import datasets
import evaluate
import torch
from torch import Tensor

from hf_ddistill.shapes import Tokens, Where

CITATION = (
    "Zheng et al., Masked Diffusion Models are Secretly Time-Agnostic Masked Models and Exploit "
    "Inaccurate Categorical Sampling, 2024, arXiv:2409.02908"
)
#: What fills a row that is shorter than the longest: no token, so it makes no two rows equal.
PADDING = -1


def pad_tokens(sequences: Sequence[Sequence[int]]) -> tuple[Tokens, Where]:
    """Sequences of any lengths -> int64 tokens (N, L), padded on the right, and their mask (N, L).

    Raises:
        ValueError: if there is no sequence.
    """
    if len(sequences) == 0:
        raise ValueError("Got no sequences; a statistic of samples needs at least one.")
    rows = [torch.as_tensor(sequence, dtype=torch.int64) for sequence in sequences]
    tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PADDING)
    lengths = torch.tensor([len(row) for row in rows])
    return tokens, torch.arange(tokens.shape[1]) < lengths[:, None]


def token_entropy(tokens: Tokens, mask: Tensor | None = None) -> float:
    """The mean over samples of each sample's unigram entropy, in nats.

    H = mean_n - sum_v (c_nv / L_n) log (c_nv / L_n), c_nv = how often token v is in sample n

    It is the "entropy" that is reported beside generative perplexity: repetition lowers both.

    References:
        Masked Diffusion Models are Secretly Time-Agnostic Masked Models and Exploit Inaccurate
        Categorical Sampling (Zheng et al., 2024), arXiv:2409.02908.

    Args:
        tokens: (N, L) int64.
        mask: (N, L), True or 1 where a token counts; all of them where it is not given.

    Raises:
        ValueError: if there is no sample, or a sample has no token.
    """
    mask = _check(tokens, mask)
    rows = torch.arange(len(tokens), device=tokens.device)[:, None].expand_as(tokens)[mask]
    counted = tokens[mask] - tokens[mask].min()
    span = int(counted.max()) + 1
    keys, counts = torch.unique(rows * span + counted, return_counts=True)
    share = counts.double() / mask.sum(1)[keys // span]
    return float(torch.special.entr(share).sum() / len(tokens))


def corpus_entropy(tokens: Tokens, mask: Tensor | None = None) -> float:
    """The unigram entropy of all samples taken together, in nats; arguments as `token_entropy`.

    It is at least `token_entropy`: samples that are each dull may still differ from one another.
    """
    mask = _check(tokens, mask)
    _, counts = torch.unique(tokens[mask], return_counts=True)
    return float(torch.special.entr(counts.double() / counts.sum()).sum())


def unique_fraction(tokens: Tokens, mask: Tensor | None = None) -> float:
    """Distinct samples / samples, in (0, 1]; arguments as `token_entropy`."""
    mask = _check(tokens, mask)
    return len(torch.unique(tokens.where(mask, PADDING), dim=0)) / len(tokens)


def pairwise_distance(tokens: Tokens) -> float:
    """The mean number of positions at which two different samples differ.

    It sees what the unigram entropy of a binary image cannot: samples that have become alike. By
    position it is N / (N - 1) (1 - sum_k p_k^2) with p_k the share of token k.

    Args:
        tokens: (N, L), N at least 2.

    Raises:
        ValueError: if there are fewer than two samples.
    """
    if tokens.ndim != 2 or len(tokens) < 2:
        raise ValueError(f"Got shape {tuple(tokens.shape)}; expected (samples >= 2, length).")
    count = len(tokens)
    values = torch.unique(tokens)
    shares = torch.stack([(tokens == value).double().mean(0) for value in values])
    return float((1 - shares.square().sum(0)).sum() * count / (count - 1))


def class_entropy(probs: Tensor) -> float:
    """The entropy in nats of the mean class distribution; log C where all classes are as frequent.

    H = - sum_c p_c log p_c, p_c = mean_n probs[n, c]

    Args:
        probs: (N, C), rows that sum to 1.

    Raises:
        ValueError: if there is no row, or a row is not a distribution.
    """
    if probs.ndim != 2 or len(probs) == 0:
        raise ValueError(f"Got shape {tuple(probs.shape)}; expected (samples >= 1, classes).")
    probs = probs.double()
    # 1e-3 leaves room for probabilities that were normalised in bfloat16 or float16.
    if not bool((probs >= 0).all()) or not bool(((probs.sum(-1) - 1).abs() < 1e-3).all()):
        raise ValueError("Got rows that are not distributions; give probabilities, not logits.")
    return float(torch.special.entr(probs.mean(0)).sum())


def nearest_distance(
    samples: Tensor,
    reference: Tensor,
    *,
    distance: Literal["hamming", "l1"] = "hamming",
    exclude_self: bool = False,
    chunk_size: int = 1024,
) -> Tensor:
    """Each sample's distance to the nearest row of the reference: 0 for a copy.

    d_n = min_m sum_l [samples_nl != reference_ml]    ("l1": sum_l |samples_nl - reference_ml|)

    Args:
        samples: (N, L) int64.
        reference: (M, L) int64.
        distance: "hamming" for symbols, "l1" for ordered levels.
        exclude_self: samples are the reference itself, and row n is not compared with row n.
        chunk_size: samples compared at a time; memory is chunk_size x M.

    Returns:
        (N,) float64.

    Raises:
        ValueError: on different lengths, an empty set, an unknown distance, or `exclude_self`
            where samples and reference are not the same rows.
    """
    if distance not in ("hamming", "l1"):
        raise ValueError(f"Got distance={distance!r}; accepted are 'hamming' and 'l1'.")
    if samples.ndim != 2 or reference.ndim != 2 or samples.shape[1] != reference.shape[1]:
        raise ValueError(
            f"Got samples {tuple(samples.shape)} and reference {tuple(reference.shape)}; both "
            "must be (rows, length) of the same length."
        )
    others = len(reference) - int(exclude_self)
    if min(len(samples), others, chunk_size) < 1:
        raise ValueError(
            f"Got {len(samples)} samples, {others} rows to compare each with and "
            f"chunk_size={chunk_size}; each must be at least 1."
        )
    if exclude_self and not torch.equal(samples, reference):
        raise ValueError("exclude_self=True compares a set with itself, but the two sets differ.")
    power = 0.0 if distance == "hamming" else 1.0
    nearest = []
    for start in range(0, len(samples), chunk_size):
        chunk = samples[start : start + chunk_size].double()
        table = torch.cdist(chunk, reference.double(), p=power)
        if exclude_self:
            own = torch.arange(len(chunk), device=table.device)
            table[own, own + start] = torch.inf
        nearest.append(table.amin(1))
    return torch.cat(nearest)


class TokenDiversity(evaluate.Metric):
    """Entropies and distinct samples: `compute(predictions=token ids)` -> `{"entropy", ...}`.

    `entropy` is `token_entropy`, `corpus_entropy` and `unique` (`unique_fraction`) the others;
    samples may have different lengths.

    References:
        Masked Diffusion Models are Secretly Time-Agnostic Masked Models and Exploit Inaccurate
        Categorical Sampling (Zheng et al., 2024), arXiv:2409.02908.
    """

    def _info(self) -> evaluate.MetricInfo:
        sequence = datasets.Sequence(datasets.Value("int64"))
        return evaluate.MetricInfo(
            description="Unigram entropy per sample and of the corpus (nats), distinct samples.",
            citation=CITATION,
            inputs_description="predictions: lists of token ids, one a sample.",
            features=datasets.Features({"predictions": sequence}),
            reference_urls=["https://arxiv.org/abs/2409.02908"],
        )

    def _compute(self, predictions: list[list[int]]) -> dict[str, float]:
        tokens, mask = pad_tokens(predictions)
        return {
            "entropy": token_entropy(tokens, mask),
            "corpus_entropy": corpus_entropy(tokens, mask),
            "unique": unique_fraction(tokens, mask),
        }


def _check(tokens: Tokens, mask: Tensor | None) -> Where:
    if tokens.ndim != 2 or len(tokens) == 0:
        raise ValueError(f"Got tokens of shape {tuple(tokens.shape)}; expected (samples, length).")
    if mask is None:
        mask = torch.ones_like(tokens, dtype=torch.bool)
    if mask.shape != tokens.shape:
        raise ValueError(
            f"Got a mask of shape {tuple(mask.shape)} for tokens of shape {tuple(tokens.shape)}."
        )
    mask = mask.bool()
    if not bool(mask.any(1).all()):
        raise ValueError(
            f"Got {int((~mask.any(1)).sum())} samples without a token; an entropy needs one."
        )
    return mask
