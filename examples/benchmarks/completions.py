"""Completions of real prompts: likely under the original language model, varied, and right?

N completions, P tokens of a prompt, M drawn tokens, L = P + M; log-likelihoods in nats per drawn
token, float64. An n-gram is n drawn tokens in a row.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_ddistill.evaluation.diversity import corpus_entropy, token_entropy
from hf_ddistill.evaluation.generative_perplexity import token_nll
from hf_ddistill.linalg import uniform_noise
from hf_ddistill.shapes import Generators, Tokens

CITATION = (
    "Li et al., A Diversity-Promoting Objective Function for Neural Conversation Models, 2015, "
    "arXiv:1510.03055; Paperno et al., The LAMBADA dataset: Word prediction requiring a broad "
    "discourse context, 2016, arXiv:1606.06031"
)
WORD = re.compile(r"[^\W\d_]+")


def words_of(text: str) -> list[str]:
    """The words of a text, its longest runs of letters, in lower case."""
    return WORD.findall(text.lower())


def ngrams(tokens: Tokens, n: int) -> Tokens:
    """The n-grams within each row, each as one number: two are equal iff their tokens are.

    Args:
        tokens: (N, M).
        n: tokens in each, at least 1 and at most M.

    Returns:
        (N, M - n + 1) int64.

    Raises:
        ValueError: if a row has fewer than n tokens.
    """
    if not 1 <= n <= tokens.shape[1]:
        raise ValueError(f"Got n={n} for rows of {tokens.shape[1]} tokens; expected 1 to that.")
    rows = tokens.unfold(1, n, 1)
    return torch.unique(rows.reshape(-1, n), dim=0, return_inverse=True)[1].view(rows.shape[:2])


def distinct(tokens: Tokens, n: int) -> float:
    """Distinct n-grams of all rows / n-grams of all rows, in (0, 1]: distinct-n.

    It falls as samples are added: compare sets of one size only.

    References:
        A Diversity-Promoting Objective Function for Neural Conversation Models (Li et al., 2015),
        arXiv:1510.03055.

    Args:
        tokens: (N, M).
        n: tokens in each n-gram.

    Raises:
        ValueError: if a row has fewer than n tokens.
    """
    grams = ngrams(tokens, n)
    return grams.unique().numel() / grams.numel()


def known_words(texts: Iterable[str], vocabulary: frozenset[str] | set[str]) -> float:
    """The share of words that occur in a vocabulary; words that the ends of a text may cut are left
    out. It is 0 where there is no word.

    Args:
        texts: completions, which may begin and stop in the middle of a word.
        vocabulary: words in lower case, of the corpus that the model learned from.
    """
    words = []
    for text in texts:
        whole = [m for m in WORD.finditer(text.lower()) if m.start() > 0 and m.end() < len(text)]
        words += [match.group() for match in whole]
    return sum(word in vocabulary for word in words) / max(len(words), 1)


@dataclass(frozen=True)
class CompletionJudge:
    """Figures of completions: how likely for the original language model, and how varied.

    nll = - sum_n sum_{l drawn} log p_LM(x_l | x_<l) / (N M)

    A low nll alone says little, since a model that repeats itself has one: read it beside the
    entropies, or beside the language model's own samples at the temperature that has the same
    entropy (`match_entropy`).

    References:
        Generative Frontiers: Why Evaluation Matters for Diffusion Language Models (Pynadath et
        al., 2026), arXiv:2604.02718: why nll and entropy are told together.

    Args:
        model: the original causal language model.
        tokenizer: its own.
        vocabulary: the words of the training corpus, in lower case.
        n: of the n-grams whose distinct share and entropy are told.
        batch_size: rows in one forward pass of the judge.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    vocabulary: frozenset[str]
    n: int = 4
    batch_size: int = 64

    @torch.no_grad()
    def __call__(self, sequences: Tokens, drawn: int) -> dict[str, float]:
        """Judge the last `drawn` tokens of each row, given what stands before them.

        Args:
            sequences: (N, L), prompts of one length, each with its completion.
            drawn: M, tokens of each completion.

        Returns:
            `nll`, `entropy` (mean of each completion's own unigram entropy), `ngram_entropy` (of
            the n-grams of all), all in nats; `distinct` (of n-grams), `known_words`, in [0, 1].

        Raises:
            ValueError: unless 1 <= drawn < L, and as `token_nll` and `distinct`.
        """
        if not 1 <= drawn < sequences.shape[1]:
            raise ValueError(
                f"Got drawn={drawn} of {sequences.shape[1]} tokens; at least one must be drawn, "
                "and one given, since a first token is not scored."
            )
        sequences = sequences.cpu()
        everywhere = torch.ones_like(sequences, dtype=torch.bool)
        nll = token_nll(self.model, sequences, everywhere, batch_size=self.batch_size)
        completions = sequences[:, -drawn:]
        texts = self.tokenizer.batch_decode(completions)
        return {
            "nll": float(nll[:, -drawn:].mean()),
            "entropy": token_entropy(completions),
            "ngram_entropy": corpus_entropy(ngrams(completions, self.n)),
            "distinct": distinct(completions, self.n),
            "known_words": known_words(texts, self.vocabulary),
        }


@dataclass(frozen=True)
class Cloze:
    """Prompts of one length, and the text with which each has to go on.

    Args:
        prompts: (N, P) int64.
        answers: N texts.
        whole_word: no letter may follow the answer.
    """

    prompts: Tokens
    answers: tuple[str, ...]
    whole_word: bool = False

    def accuracy(self, completions: Sequence[str]) -> float:
        """The share of completions (N texts) that begin with their answer.

        Raises:
            ValueError: if their number is not that of the answers.
        """
        right = 0
        for completion, answer in zip(completions, self.answers, strict=True):
            follows = completion[len(answer) : len(answer) + 1]
            right += completion.startswith(answer) and not (self.whole_word and follows.isalpha())
        return right / len(self.answers)


def word_cloze(
    text: str,
    tokenizer: PreTrainedTokenizerBase,
    count: int,
    prompt_length: int,
    *,
    given: int = 2,
    shortest: int = 6,
    generator: Generators = None,
) -> Cloze:
    """Long words of a held-out text, to be completed exactly from what stands before them.

    References:
        The LAMBADA dataset: Word prediction requiring a broad discourse context (Paperno et al.,
        2016), arXiv:1606.06031; there the word is asked for without its first letters.

    Args:
        text: as the tokenizer would write it again (see `tokenizer.decode`).
        tokenizer: of the language model.
        count: words, drawn without repetition.
        prompt_length: tokens of each prompt, which end with the word's first letters.
        given: letters of the word that are in the prompt.
        shortest: letters that a word has at least.
        generator: of the draw.

    Raises:
        ValueError: if the text has not as many long words with a long enough text before them.
    """
    words = [match for match in WORD.finditer(text) if len(match.group()) >= shortest]
    prompts, answers = [], []
    for at in _shuffled(len(words), generator):
        word = words[at]
        end = word.start() + given
        # The stretch bounds the work; a word for which it is too short is left out.
        ids = tokenizer(text[max(0, end - 16 * prompt_length) : end], add_special_tokens=False)
        ids = ids["input_ids"][-prompt_length:]
        if len(ids) == prompt_length:
            prompts.append(ids)
            answers.append(text[end : word.end()])
        if len(prompts) == count:
            return Cloze(torch.tensor(prompts), tuple(answers), whole_word=True)
    raise ValueError(
        f"The text has {len(prompts)} words of at least {shortest} letters with {prompt_length} "
        f"tokens before them; {count} were asked for."
    )


def copy_cloze(
    tokens: Tensor,
    tokenizer: PreTrainedTokenizerBase,
    count: int,
    prompt_length: int,
    *,
    generator: Generators = None,
) -> Cloze:
    """A passage and its first third again: the next third has to be copied from the passage.

    The prompt is a passage of 3/4 `prompt_length` tokens followed by its first 1/4 `prompt_length`
    tokens; the answer is the text of as many more.

    Args:
        tokens: (T,), a held-out text.
        tokenizer: of the language model.
        count: passages, drawn without repetition; they may overlap.
        prompt_length: tokens of each prompt, a multiple of 4.
        generator: of the draw.

    Raises:
        ValueError: if the length is not a multiple of 4, or the text too short.
    """
    if prompt_length % 4 or prompt_length <= 0:
        raise ValueError(f"prompt_length must be a positive multiple of 4, got {prompt_length}.")
    piece = prompt_length // 4
    starts = len(tokens) - 3 * piece + 1
    if starts < count:
        raise ValueError(f"Got {len(tokens)} tokens; {count} passages need {count + 3 * piece}.")
    passages = tokens.unfold(0, 3 * piece, 1)[_shuffled(starts, generator)[:count]]
    answers = tokenizer.batch_decode(passages[:, piece : 2 * piece])
    return Cloze(torch.cat((passages, passages[:, :piece]), 1), tuple(answers))


def _shuffled(count: int, generator: Generators) -> list[int]:
    return uniform_noise((count,), generator).argsort().tolist()
