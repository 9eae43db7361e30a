"""What samples of `scoreboard_text.py` are worth, and samplers compared at equal entropy.

A curve is the rows of one sampler at one number of calls, over its temperatures. Two samplers are
compared where their entropies are equal, between measured rows by a straight line
(Generative Frontiers, 2026, arXiv:2604.02718: a likelihood alone is lowered by repeating oneself).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from completions import distinct, ngrams
from dllm_judge import Ngrams
from scoreboard_text_corpus import SYMBOLS, decoded
from torch import Tensor
from transformers import PreTrainedModel

from hf_ddistill.evaluation.diversity import corpus_entropy, token_entropy, unique_fraction
from hf_ddistill.evaluation.generative_perplexity import token_nll

#: Letters in the n-grams by whose entropy diversity is matched, and in those that a sample repeats.
GRAM, REPEATED = 4, 8
#: Letters of a word that is looked for.
SHORTEST = 4
#: What is interpolated, and how tables name it.
FIGURES = {
    "nll": "nll",
    "ngram_nll": "6-gram nll",
    "lm_nll": "SmolLM2 nll",
    "words": "known words",
    "distinct": "distinct-4",
    "repeated": "repeated",
    "entropy": "entropy",
    "ngram_entropy": "of 4-grams",
}


class Figures:
    """The figures of samples.

    Args:
        judge: an autoregressive model of other speeches.
        tokens: those speeches, for the n-grams that are a second judge.
        vocabulary: words of other speeches.
    """

    def __init__(self, judge: PreTrainedModel, tokens: Tensor, vocabulary: frozenset[str]) -> None:
        self.judge, self.vocabulary = judge, vocabulary
        self.grams = Ngrams(tokens, SYMBOLS, frozenset())

    def __call__(self, rows: Tensor) -> dict[str, float]:
        """Of rows (N, L).

        `nll` is in nats per character behind the first, `nll_error` its standard error over rows.
        Entropies in nats: of the symbols of a sample (mean), of those of all samples, of their
        4-grams. Shares: `distinct` 4-grams, `unique` samples, `words` that other speeches have
        (`known_words`), `repeated` 8-grams, which the same sample had before.
        """
        nll = token_nll(self.judge, rows, torch.ones_like(rows), batch_size=32).mean(1)
        return {
            "nll": float(nll.mean()),
            "nll_error": float(nll.std() / len(nll) ** 0.5),
            "ngram_nll": self.grams.nats(rows, self.grams.order),
            "entropy": token_entropy(rows),
            "corpus_entropy": corpus_entropy(rows),
            "ngram_entropy": corpus_entropy(ngrams(rows, GRAM)),
            "distinct": distinct(rows, GRAM),
            "unique": unique_fraction(rows),
            "words": known_words(map(decoded, rows), self.vocabulary),
            "repeated": repeated(rows, REPEATED),
        }


def known_words(texts: Iterable[str], vocabulary: frozenset[str]) -> float:
    """The share of whole words that are in a vocabulary. Short ones are left out: of three letters
    in a row that are drawn from nothing, many are a word."""
    words = [word for text in texts for word in text.split(" ")[1:-1] if len(word) >= SHORTEST]
    return sum(word in vocabulary for word in words) / max(len(words), 1)


def repeated(rows: Tensor, n: int) -> float:
    """The share of n-grams that the same sample had before."""
    grams = ngrams(rows, n)
    return 1 - sum(len(row.unique()) for row in grams) / grams.numel()


def at_entropy(
    rows: Iterable[Mapping[str, Any]],
    entropy: float,
    by: str = "ngram_entropy",
    judge: str = "nll",
) -> dict[str, float] | None:
    """The figures of a curve where one of its entropies, that of 4-grams unless told otherwise, is
    this, and the temperature there; None outside of what was measured. Where a curve comes by more
    than once, the least nll of a judge."""
    ranked = sorted(rows, key=lambda row: row["temperature"])
    found = []
    for one, other in pairwise(ranked):
        first, last = one[by], other[by]
        if not min(first, last) <= entropy <= max(first, last):
            continue
        share = 0.0 if first == last else (entropy - first) / (last - first)
        names = [name for name in (*FIGURES, "temperature") if name in one and name in other]
        found.append({name: one[name] + share * (other[name] - one[name]) for name in names})
    return min(found, key=lambda each: each[judge], default=None)


def curve(rows: Sequence[Mapping[str, Any]], **about: Any) -> list[Mapping[str, Any]]:
    """The rows with these entries; of several seeds at one temperature the mean."""
    chosen = [row for row in rows if about.items() <= row.items()]
    made = []
    for temperature in sorted({row["temperature"] for row in chosen}):
        same = [row for row in chosen if row["temperature"] == temperature]
        names = [name for name in FIGURES if all(name in row for row in same)]
        mean = {name: sum(row[name] for row in same) / len(same) for name in names}
        made.append({**about, "temperature": temperature, "seeds": len(same), **mean})
    return made


def best_teacher(
    rows: Sequence[Mapping[str, Any]],
    calls: int,
    entropy: float,
    by: str = "ngram_entropy",
    judge: str = "nll",
) -> tuple[str, dict[str, float]] | None:
    """The teacher's sampler with the least nll of a judge at this entropy in so many calls, and its
    figures; None where none of them is as diverse and as sure."""
    names = {row["sampler"] for row in rows if row["model"] == "teacher" and row["calls"] == calls}
    found = {}
    for name in sorted(names):
        own = at_entropy(
            curve(rows, model="teacher", calls=calls, sampler=name), entropy, by, judge
        )
        if own is not None:
            found[name] = own
    if not found:
        return None
    return min(found.items(), key=lambda item: item[1][judge])
